"""Optimisers, parameter groups and clipping."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tunestudy.config.schedules import Multiplier
from tunestudy.config.stage import OptimiserSettings
from tunestudy.train.few_bit_optim import FEW_BITS, make_few_bit_optimizer, settle_loaded
from tunestudy.train.shards import like, local, total_norm
from tunestudy.train.trainable import Trainable

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def make_optimizer(trainables: Sequence[Trainable], settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name, with one group per learning rate and kind of decay."""
    groups = parameter_groups(trainables, settings)
    if settings.optim in FEW_BITS:
        return make_few_bit_optimizer(groups, trainables, settings)
    if settings.optim == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    if settings.optim == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.learning_rate)
    fused = settings.optim == "adamw_torch_fused" and all(_can_fuse(t.parameter) for t in trainables)
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=fused,
        foreach=not fused,
    )


@runtime_checkable
class LoadsByName(Protocol):
    """An optimiser that keeps its state in a form of its own."""

    def load_named(self, states: Mapping[str, Mapping[str, Tensor]], trainables: Sequence[Trainable]) -> None:
        """Take over whole states, parameter's name → state's name → tensor, after the weights were loaded."""


def load_states(
    optimizer: torch.optim.Optimizer, states: Mapping[str, Mapping[str, Tensor]], trainables: Sequence[Trainable]
) -> None:
    """Give an optimiser whole states, parameter's name → state's name → tensor."""
    if isinstance(optimizer, LoadsByName):
        optimizer.load_named(states, trainables)
        return
    names = {id(trainable.parameter): trainable.name for trainable in trainables}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sliced = {
        place: {key: like(tensor, parameter) for key, tensor in states[names[id(parameter)]].items()}
        for place, parameter in enumerate(parameters)
        if names[id(parameter)] in states
    }
    optimizer.load_state_dict({"state": sliced, "param_groups": optimizer.state_dict()["param_groups"]})
    if hasattr(optimizer, "is_paged"):
        settle_loaded(optimizer)


def parameter_groups(trainables: Sequence[Trainable], settings: OptimiserSettings) -> list[dict[str, object]]:
    """Groups of equal learning rate and weight decay, gates apart, in order of first appearance.

    Each group remembers its peak rate as `peak_lr` and the role it was made for as `role`.
    """
    groups: dict[tuple[str, float, float, bool], list[nn.Parameter]] = {}
    for trainable in trainables:
        decay = settings.weight_decay if trainable.decays else 0.0
        key = trainable.role, trainable.learning_rate, decay, trainable.is_gate
        groups.setdefault(key, []).append(trainable.parameter)
    return [
        {"params": params, "lr": rate, "peak_lr": rate, "weight_decay": decay, "role": role}
        for (role, rate, decay, _), params in groups.items()
    ]


def set_learning_rates(optimizer: torch.optim.Optimizer, multiplier: Multiplier, step: int) -> float:
    """Give every group its rate for optimiser step `step` (0-based); returns the highest, which is logged."""
    share = multiplier(step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    return max(float(group["lr"]) for group in optimizer.param_groups)


def clip(trainables: Iterable[Trainable], max_norm: float | None) -> float:
    """Scale all gradients so that their global 2-norm is at most `max_norm`; returns the norm before clipping.

    Gradients are already equal on all ranks, so the norm is too. Infinite where a half-precision gradient overflowed.
    """
    gradients = [t.parameter.grad for t in trainables if t.parameter.grad is not None]
    norm = total_norm(gradients)
    if max_norm is not None and math.isfinite(value := float(norm)) and value > max_norm:
        torch._foreach_mul_([local(gradient) for gradient in gradients], max_norm / (value + 1e-6))
    return float(norm)


def _can_fuse(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.device.type in FUSED_DEVICES

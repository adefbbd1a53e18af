"""Gates of an adapter: one number per rank between A and B, driven to exact zeros while training.

y = W x + s·B diag(g) A x. A gate at zero takes its rank out, whatever A and B hold. Gates are PEFT parameters like any
other (`lora_gate`, a ParameterDict beside `lora_A`), always float32: a pull of 1e-5 on a gate near one is below what
bfloat16 can hold. Source: Ding et al., EMNLP 2023 (SoRA).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunestudy.config.errors import StudyError, at
from tunestudy.models.draws import generator_of

GATE = "lora_gate"


@dataclass(frozen=True)
class Gated:
    """One layer with gates."""

    gate: nn.Parameter
    """(R,) float32."""
    params_per_rank: int
    """Numbers that a shut gate takes out: a row of A, a column of B, and the gate."""


def gates_of(model: nn.Module, adapter_name: str = "default") -> dict[str, Gated]:
    """Module name in the base model → its gates, in the model's order; empty for an adapter without."""
    found = {}
    for name, layer in model.named_modules():
        gates = getattr(layer, GATE, None)
        if isinstance(gates, nn.ParameterDict | dict) and adapter_name in gates:
            per_rank = layer.lora_A[adapter_name].in_features + layer.lora_B[adapter_name].out_features + 1
            found[name.removeprefix("base_model.model.")] = Gated(gates[adapter_name], per_rank)
    return found


def add_gates(model: nn.Module, adapter_name: str, *, start: Literal["normal", "ones"], seed: int) -> None:
    """Give every layer of the adapter a gate per rank; those that have them keep the layer and get new values."""
    for name, layer in model.named_modules():
        if adapter_name in getattr(layer, "lora_embedding_A", {}):
            raise StudyError(at("adapter.target_modules"), f"{name} is an embedding, which cannot have gates here")
        if adapter_name not in getattr(layer, "lora_A", {}):
            continue
        down = layer.lora_A[adapter_name].weight
        values = torch.ones(down.shape[0])
        if start == "normal":
            values.normal_(generator=generator_of(f"{name}.{GATE}.{adapter_name}", seed))
        if not hasattr(layer, GATE):
            setattr(layer, GATE, nn.ParameterDict())
            layer.adapter_layer_names = (*layer.adapter_layer_names, GATE)
        getattr(layer, GATE)[adapter_name] = nn.Parameter(values.to(down.device))


def delta(layer: Any, adapter_name: str) -> Tensor:
    """s·B diag(g) A in float32, laid out as the base weight; without gates, g is one."""
    up = layer.lora_B[adapter_name].weight.detach().float()
    gates = getattr(layer, GATE, None)
    if gates is not None and adapter_name in gates:
        up = up * gates[adapter_name].detach().float()
    weight: Tensor = up @ layer.lora_A[adapter_name].weight.detach().float() * layer.scaling[adapter_name]
    return weight.T if layer.fan_in_fan_out else weight


@torch.no_grad()
def soft_threshold(gates: Mapping[str, Gated], threshold: Tensor | float) -> None:
    """Every gate closer to zero by `threshold`, and exactly zero from there: the proximal step of threshold·|g|."""
    for gated in gates.values():
        limit = torch.as_tensor(threshold, device=gated.gate.device)
        gated.gate.sub_(gated.gate.clamp(-limit, limit))


@torch.no_grad()
def official_threshold(gates: Mapping[str, Gated], threshold: Tensor | float) -> None:
    """What the published code does, case by case in turn: a gate between one and two thresholds shrinks, then dies.

    Source: sparse_optimizer.py of TsinghuaC3I/SoRA, c275ac2.
    """
    for gated in gates.values():
        gate = gated.gate
        gate.sub_(torch.where(gate > threshold, threshold, 0.0))
        gate.add_(torch.where(gate < -threshold, threshold, 0.0))
        gate.mul_(gate.abs() >= threshold)


@torch.no_grad()
def hard_threshold(gates: Mapping[str, Gated], threshold: Tensor | float) -> None:
    """Gates within `threshold` of zero become zero, all others stay as they are."""
    for gated in gates.values():
        gated.gate.mul_(gated.gate.abs() > threshold)


def smallest(gates: Mapping[str, Gated], count: int) -> Tensor:
    """The `count`-th smallest |g| over all gates: what a threshold must be to shut that many."""
    device = next(iter(gates.values())).gate.device
    sizes = torch.cat([gated.gate.detach().abs().to(device) for gated in gates.values()])
    return sizes.kthvalue(count).values


def num_shut(gated: Gated, tolerance: float = 0.0) -> int:
    """Gates at zero, or closer to it than `tolerance`."""
    sizes = gated.gate.detach().abs()
    return int(((sizes == 0) | (sizes < tolerance)).sum())


def refuse_plain_saving(model: Any) -> None:
    """Make PEFT's `save_pretrained` raise: what it writes would load again as an adapter without its gates."""
    if hasattr(model, "peft_config"):
        model.save_pretrained = partial(_refuse, model)


def _refuse(model: Any, *_: Any, **__: Any) -> None:  # noqa: ARG001 - as PEFT's method
    cure = "use tunestudy.adapters.sora.save, or merge_and_unload first"
    raise StudyError(at("save_pretrained"), f"PEFT would save this adapter without its gates; {cure}")

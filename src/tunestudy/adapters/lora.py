"""LoRA through PEFT: y = W x + s·B A x with s = alpha/r. Source: Hu et al. 2021, arXiv:2106.09685."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from tunestudy.adapters.own_factors import begin_at_own_factors
from tunestudy.config.adapter import OWN_FACTORS, LoraAdapter, LowRankOptions
from tunestudy.models.draws import generator_of


def peft_config(adapter: LoraAdapter, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the same adapter."""
    config = low_rank_config(
        adapter,
        target_modules=target_modules,
        modules_to_save=modules_to_save,
        target_parameters=adapter.target_parameters,
    )
    config.start = adapter.init_lora_weights  # rides along unsaved, for `initialise`
    return config


def low_rank_config(
    adapter: LowRankOptions,
    *,
    target_modules: list[str],
    modules_to_save: list[str] | None,
    target_parameters: Sequence[str] = (),
    use_dora: bool = False,
) -> Any:
    """PEFT's configuration of what LoRA and all that builds on it have in common."""
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        use_rslora=adapter.use_rslora,
        rank_pattern=dict(adapter.rank_pattern),
        alpha_pattern=dict(adapter.alpha_pattern),
        target_parameters=list(target_parameters) or None,
        use_dora=use_dora,
        target_modules=target_modules,
        modules_to_save=modules_to_save,
        task_type="CAUSAL_LM",
    )


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """A uniform with PEFT's bounds, or as `init_lora_weights` says, and B such that the model is unchanged at first.

    Each tensor has its own generator, seeded by its name, so neither the order of modules nor anything that ran
    before can make two ranks differ.
    """
    start = getattr(model.peft_config[adapter_name], "start", "default")
    if start in OWN_FACTORS:
        begin_at_own_factors(model, adapter_name, start)
        return
    for name, parameter in model.named_parameters():
        if f".{adapter_name}" not in name:
            continue
        if start == "orthogonal" and (".lora_A." in name or ".lora_B." in name):
            _fill(parameter, _orthogonal(name, parameter.shape, seed))
        elif start == "gaussian" and ".lora_A." in name:
            spread = 1 / parameter.shape[0]
            _fill(parameter, torch.empty(parameter.shape).normal_(0, spread, generator=generator_of(name, seed)))
        elif ".lora_A." in name:
            bound = 1 / math.sqrt(parameter.shape[1])  # Kaiming uniform with a = √5, as torch's own Linear
            _fill(parameter, torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator_of(name, seed)))
        elif ".lora_embedding_B." in name:
            _fill(parameter, torch.empty(parameter.shape).normal_(generator=generator_of(name, seed)))
        elif ".lora_B." in name or ".lora_embedding_A." in name:
            parameter.data.zero_()


def num_parameters(adapter: LoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A (r, inputs) and B (outputs, r)."""
    return adapter.lora_r * (inputs + outputs)


def _orthogonal(name: str, shape: torch.Size, seed: int) -> torch.Tensor:
    """A (r, inputs) from the odd rows of one orthogonal matrix, B (outputs, r) from its even ones: B A = 0.

    Source: PEFT's `orthogonal` start, whose factor 1/10 is kept.
    """
    of_b = ".lora_B." in name
    rank = shape[1] if of_b else shape[0]
    shared = generator_of(name.replace(".lora_B.", ".lora_A."), seed)
    basis = torch.linalg.qr(torch.randn(rank, rank, generator=shared)).Q[int(of_b) :: 2]
    long = shape[0] if of_b else shape[1]
    mixed: torch.Tensor = torch.randn(long, len(basis), generator=generator_of(name, seed + 1)) @ basis / 10
    return mixed if of_b else mixed.T


def _fill(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    parameter.data.copy_(values)

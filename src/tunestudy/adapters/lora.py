"""LoRA through PEFT: y = W x + s·B A x with s = alpha/r. Source: Hu et al. 2021, arXiv:2106.09685."""

import hashlib
import math
from typing import Any

import torch

from tunestudy.config.adapter import LoraAdapter


def peft_config(adapter: LoraAdapter, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the same adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        use_rslora=adapter.use_rslora,
        target_modules=target_modules,
        modules_to_save=modules_to_save,
        task_type="CAUSAL_LM",
    )


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """A uniform with PEFT's bounds, B zero: the model is unchanged at first.

    Each tensor has its own generator, seeded by its name, so neither the order of modules nor anything that ran
    before can make two ranks differ.
    """
    for name, parameter in model.named_parameters():
        if f".{adapter_name}" not in name:
            continue
        if ".lora_A." in name:
            bound = 1 / math.sqrt(parameter.shape[1])  # Kaiming uniform with a = √5, as torch's own Linear
            _fill(parameter, torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator_of(name, seed)))
        elif ".lora_embedding_B." in name:
            _fill(parameter, torch.empty(parameter.shape).normal_(generator=generator_of(name, seed)))
        elif ".lora_B." in name or ".lora_embedding_A." in name:
            parameter.data.zero_()


def num_parameters(adapter: LoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A (r, inputs) and B (outputs, r)."""
    return adapter.lora_r * (inputs + outputs)


def generator_of(name: str, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def _fill(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    parameter.data.copy_(values)

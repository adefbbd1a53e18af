"""Bases in few bits, through bitsandbytes: what to ask transformers for, and what such weights count as."""

import importlib.util
from typing import Any

import torch
from torch import nn

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.stage import Quantization


def loading_options(quantization: Quantization | None, device: torch.device | str) -> dict[str, Any]:
    """What `from_pretrained` needs to put linear layers into few bits on `device`; the head and embeddings stay."""
    if quantization is None:
        return {}
    require_bitsandbytes("quantization")
    from transformers import BitsAndBytesConfig

    options = quantization.model_dump()
    for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        options[key] = getattr(torch, options[key])
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}


def require_bitsandbytes(key: str) -> None:
    """Say how to install it, at the stage's key that needs it, instead of failing inside an import."""
    if importlib.util.find_spec("bitsandbytes") is None:
        cure = "needs bitsandbytes: pip install 'tunestudy[quant]'"
        raise StudyError(at(key), cure, exit_code=Exit.PREFLIGHT_REFUSED)


def check_quantised(model: nn.Module, origin: str) -> None:
    """A model without one few-bit layer was not quantised, whatever was asked for."""
    if not any(isinstance(module, few_bit_layers()) for module in model.modules()):
        raise StudyError(at("quantization"), f"{origin} has no linear layer that bitsandbytes put into few bits")


def keep_layout(model: nn.Module) -> None:
    """Let few-bit weights stay as they are stored while a model is evaluated.

    On processors with AVX512-BF16, bitsandbytes (0.50) packs them anew at the first forward in eval mode: it rounds
    their scales to bfloat16 for good, and fails on layers whose sides are no multiples of 32 and of the block.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def few_bit_layers() -> tuple[type[nn.Module], ...]:
    """bitsandbytes' layers."""
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    return Linear4bit, Linear8bitLt


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Of a parameter that DeepSpeed's stage 3 may have emptied."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def num_values(parameter: nn.Parameter) -> int:
    """Numbers that a parameter stands for: packed ones hold two in a byte, and DeepSpeed keeps slices elsewhere."""
    state = getattr(parameter, "quant_state", None)
    whole = parameter.numel() if state is None else state.shape.numel()
    return int(getattr(parameter, "ds_numel", whole))

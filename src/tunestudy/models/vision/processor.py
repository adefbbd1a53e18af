"""transformers' image processors, asked for tensors."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_tensors(processor: Any, images: Sequence[Any], *names: str) -> dict[str, Tensor]:
    """These outputs of an image processor for PIL images."""
    made = processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
    return {name: torch.as_tensor(made[name]) for name in names}


def identity_of(processor: Any) -> str:
    """Every option that the processor would save."""
    values = processor.to_dict()
    return json.dumps(
        {name: value for name, value in values.items() if not name.startswith("_")}, sort_keys=True, default=str
    )

"""Under which file and key a checkpoint keeps a tensor, and putting such files back into a model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from tunestudy.models.fold import GATED_WEIGHTS, is_gated
from tunestudy.models.roles import is_adapter_parameter, is_mixture_parameter

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_WEIGHTS = "model.safetensors"
MOLE_WEIGHTS = "mole.safetensors"
MOLE_CONFIG = "mole_config.json"
COMPONENTS_FILE = "components.json"
"""Beside config.json: which components the weights belong to."""

T = TypeVar("T")

_ADAPTER_NAME = re.compile(r"(?:(\.lora_[A-Za-z_]+)|\.modules_to_save)\.[^.]+(?=\.|$)")
"""What PEFT puts into parameter names and leaves out of its files: the adapter's name, and that a module is a copy."""


def stored_as(name: str) -> tuple[str, str]:
    """The file and the key under which a trainable tensor of this name is kept."""
    if is_mixture_parameter(name):
        return MOLE_WEIGHTS, name
    if is_adapter_parameter(name) or ".modules_to_save." in name:
        return ADAPTER_WEIGHTS, _ADAPTER_NAME.sub(r"\1", name)
    return MODEL_WEIGHTS, name


def by_file(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Trainable tensors by file and stored key. An adapter with gates has a file that stock PEFT does not look for."""
    files: dict[str, dict[str, T]] = {}
    gated = is_gated(tensors)
    for name, tensor in tensors.items():
        file, key = stored_as(name)
        file = GATED_WEIGHTS if gated and file == ADAPTER_WEIGHTS else file
        files.setdefault(file, {})[key] = tensor
    return files


@torch.no_grad()
def put_back(model: nn.Module, folder: Path) -> list[str]:
    """Copy a checkpoint's tensors over those of a model that is whole; returns what does not fit, in words.

    An adapter's go to the one that learns, not to frozen ones below it. Weights keep the model's dtype.
    """
    from safetensors.torch import load_file

    learning = {
        name: p for name, p in model.named_parameters() if p.requires_grad or stored_as(name)[0] == MODEL_WEIGHTS
    }
    own: dict[str, dict[str, Any]] = by_file(learning)
    files = [
        name for name in (MODEL_WEIGHTS, ADAPTER_WEIGHTS, GATED_WEIGHTS, MOLE_WEIGHTS) if (folder / name).is_file()
    ]
    wrong = [] if files else ["it holds no weights"]
    for file in files:
        for key, stored in load_file(folder / file).items():
            parameter = own.get(file, {}).get(key)
            if parameter is None:
                wrong.append(f"{file} holds {key}, which this model does not have")
            elif parameter.shape != stored.shape:
                wrong.append(f"{key} has shape {tuple(stored.shape)}, not {tuple(parameter.shape)}")
            else:
                parameter.copy_(stored)
    return wrong

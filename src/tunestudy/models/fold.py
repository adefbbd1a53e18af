"""An adapter with gates as one without: shut ranks left out, open gates multiplied into B; and its raw form.

Works on tensors by PEFT's names, so that what is published is an ordinary LoRA or DoRA whose modules differ in rank.
The raw form, with gates, lies in files of other names: stock PEFT would drop the gates without a word.
"""

import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GATED_WEIGHTS = "gated_adapter.safetensors"
GATED_CONFIG = "gated_adapter_config.json"
RAW = "gated"
"""Folder of the raw form, within a published model."""

START = "start"
"""The frozen twin of an adapter that starts at its base's own factors; it takes them out of the base."""

GATE = ".lora_gate"
ROOT = "base_model.model."


def is_gated(names: Iterable[str]) -> bool:
    """Whether tensors by PEFT's names, or by the model's, have gates among them."""
    return any(name.endswith(GATE) or f"{GATE}." in name for name in names)


def has_gates(model: nn.Module) -> bool:
    """Whether an adapter of the model has gates, in a module or, under an engine that cuts modules, beside one."""
    return any(getattr(module, GATE.removeprefix("."), None) for module in model.modules())


def fold(state: Mapping[str, Tensor], config: Any) -> tuple[dict[str, Tensor], Any]:
    """The tensors without gates, and a copy of PEFT's configuration with each module's own rank and alpha.

    PEFT knows no rank of zero: a module whose gates are all shut keeps one rank with a column of zeros in B.
    """
    folded = dict(state)
    config = copy.deepcopy(config)
    ranks, alphas = {}, {}
    for key in [key for key in state if key.endswith(GATE)]:
        module = key.removesuffix(GATE)
        gate = folded.pop(key)
        scale = scale_of(vars(config), module.removeprefix(ROOT), len(gate))
        keep = (gate != 0).nonzero().squeeze(1)
        if len(keep) == 0:
            keep = gate.new_zeros(1, dtype=keep.dtype)
        down, up = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        folded[down] = state[down][keep].contiguous()
        folded[up] = (state[up].float() * gate)[:, keep].to(state[up].dtype).contiguous()
        rank = len(keep)
        ranks[module.removeprefix(ROOT)] = rank
        alphas[module.removeprefix(ROOT)] = scale * (math.sqrt(rank) if config.use_rslora else rank)
    config.rank_pattern, config.alpha_pattern = ranks, alphas
    return folded, config


def joined(trained: Mapping[str, Tensor], start: Mapping[str, Tensor], config: Any) -> tuple[dict[str, Tensor], Any]:
    """An adapter and its frozen twin, by PEFT's names, as one of twice the rank at the same scale."""
    state = dict(trained)
    for key, twin in start.items():
        along = 0 if key.endswith(".lora_A.weight") else 1
        state[key] = torch.cat([trained[key], twin.to(trained[key])], dim=along).contiguous()
    config = copy.deepcopy(config)
    factor = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, factor * config.lora_alpha, True
    config.rank_pattern = {module: 2 * rank for module, rank in config.rank_pattern.items()}
    config.alpha_pattern = {module: factor * alpha for module, alpha in config.alpha_pattern.items()}
    return state, config


def scale_of(options: Mapping[str, Any], module: str, rank: int) -> float:
    """s of one module: alpha/r, or alpha/√r, where a pattern may say another alpha.

    options: PEFT's, by their names. rank: of the module's factors. PEFT's patterns are the ends of modules' names, or
    regular expressions for those.
    """
    patterns: Mapping[str, float] = options.get("alpha_pattern") or {}
    own = (alpha for key, alpha in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    alpha = next(own, options["lora_alpha"])
    return float(alpha / math.sqrt(rank) if options.get("use_rslora") else alpha / rank)


def raw_config_text(values: Mapping[str, Any], *, use_dora: bool) -> str:
    """gated_adapter_config.json: PEFT's options under a type that stock PEFT does not know, so that it refuses."""
    return json.dumps({**values, "peft_type": "SDORA" if use_dora else "SORA"}, indent=2, sort_keys=True) + "\n"


def write_raw(state: Mapping[str, Tensor], config: Any, folder: Path) -> None:
    """The adapter with its gates, to train on from; no file in it has a name that stock PEFT looks for."""
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / GATED_WEIGHTS, metadata={"format": "pt"})
    text = raw_config_text(plain_config(config), use_dora=config.use_dora)
    (folder / GATED_CONFIG).write_text(text, encoding="utf-8")


def plain_config(config: Any) -> dict[str, Any]:
    """PEFT's options as JSON holds them; sets in sorted order, so that equal options give equal bytes."""
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}

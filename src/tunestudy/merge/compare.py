"""Whether models can be merged at all: their architecture, tensors, heads and vocabularies, before a value is read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.merge import BASE, MergeStage
from tunestudy.merge.source import FLOATS, Inputs, Source
from tunestudy.merge.view import View
from tunestudy.merge.vocabulary import Matched, match

NAMED = 3
"""Tensors named in an error; the rest is counted."""
PARTS = ("", "text_config", "vision_config")
"""Sections of config.json that say what a model's parts are."""
STRUCTURE = (
    "model_type",
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "tie_word_embeddings",
)
HEADS = ("lm_head.weight", "embed_out.weight")
"""Ends of the names of output heads, which a folder may hold although the configuration ties them."""


@dataclass(frozen=True)
class Compared:
    """The inputs as the merge shall see them, and what is to be told about them."""

    inputs: Inputs
    matched: Matched | None
    absent: tuple[str, ...]
    """Tensors of the models that the base lacks."""
    warnings: tuple[str, ...]


def compare(inputs: Inputs, settings: MergeStage, stage: str) -> Compared:
    """Put the inputs into one shape: tied heads once, rows of embeddings by token.

    Raises StudyError, which names both models, for other architectures and sizes, for tensors that one lacks, for
    shapes that differ, and for weights in few bits.
    """
    key = f"stages.{stage}.models"
    configs = {name: _config(inputs.model_folder(name)) for name in _all(inputs)}
    _check_structure(configs, key)
    inputs = _with_heads_once(inputs, configs)
    absent = _check_names(inputs, settings, key)
    folders = {name: (tokenizer_folder(inputs, name), inputs.model_folder(name)) for name in configs}
    matched = match(_all(inputs), folders, settings.vocabulary, f"stages.{stage}.vocabulary")
    if matched is not None:
        inputs = _seen_as(inputs, matched.sources)
    _check_shapes(inputs, key)
    return Compared(inputs, matched, absent, tuple(_of_types(inputs, settings)))


def tokenizer_folder(inputs: Inputs, name: str) -> Path:
    """Where an input's tokenizer lies: in its own folder, or with an adapter's base."""
    own = inputs.folders[name]
    return own if (own / "tokenizer.json").is_file() else inputs.model_folder(name)


def _all(inputs: Inputs) -> dict[str, Source]:
    return {**({} if inputs.base is None else {BASE: inputs.base}), **inputs.models}


def _seen_as(inputs: Inputs, sources: Mapping[str, Source]) -> Inputs:
    return replace(inputs, base=sources.get(BASE), models={name: sources[name] for name in inputs.models})


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(found.get(part) or {}, dict) for part in PARTS if part):
            raise ValueError("it holds no settings of a model")
    except (OSError, ValueError) as error:
        message = f"{folder}: config.json cannot be read: {error}"
        raise StudyError(at(folder.name), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    return found


def _check_structure(configs: Mapping[str, dict[str, Any]], key: str) -> None:
    (first, its), *others = configs.items()
    for name, config in others:
        for part in PARTS:
            mine, other = (one.get(part) or {} if part else one for one in (its, config))
            for field in STRUCTURE:
                if field in mine and field in other and mine[field] != other[field]:
                    where = f"{part}.{field}" if part else field
                    message = f"`{first}` and `{name}` are of different architecture: {where} is {mine[field]} and "
                    raise _wrong(key, f"{message}{other[field]}; merge models that were trained from one")


def _with_heads_once(inputs: Inputs, configs: Mapping[str, dict[str, Any]]) -> Inputs:
    """Without output heads that the configuration ties to the embeddings: a copy, which loading ignores."""
    hidden = {
        name: [tensor for tensor in source.tensors if _ties(configs[name]) and tensor.endswith(HEADS)]
        for name, source in _all(inputs).items()
    }
    if not any(hidden.values()):
        return inputs
    return _seen_as(inputs, {name: View(source, hidden=hidden[name]) for name, source in _all(inputs).items()})


def _ties(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", (config.get("text_config") or {}).get("tie_word_embeddings")))


def _check_names(inputs: Inputs, settings: MergeStage, key: str) -> tuple[str, ...]:
    """Tensors that the base lacks; StudyError for those when no policy is given, and for those a model lacks."""
    wanted = dict.fromkeys(tensor for source in _all(inputs).values() for tensor in source.tensors)
    taken = settings.absent.removeprefix("take:") if settings.absent.startswith("take:") else None
    new = () if inputs.base is None else tuple(name for name in wanted if name not in inputs.base.tensors)
    if new and settings.absent == "error":
        cure = "say what becomes of them: absent: average, zero_base, or take:<model>"
        raise _wrong(key, f"the base lacks {_named(new)}; {cure}")
    for name, source in inputs.models.items():
        lacking = [tensor for tensor in wanted if tensor not in source.tensors and (taken is None or tensor not in new)]
        if lacking:
            head = lacking[0].endswith(HEADS)
            why = "its output head is tied to the embeddings" if head else "all models must have all tensors"
            raise _wrong(f"{key}.{name}", f"`{name}` lacks {_named(lacking)}: {why}")
    return new


def _check_shapes(inputs: Inputs, key: str) -> None:
    sources = _all(inputs)
    for name, source in sources.items():
        for tensor, info in source.tensors.items():
            for other, its in sources.items():
                if tensor in its.tensors and its.tensors[tensor].shape != info.shape:
                    shapes = f"{tuple(info.shape)} in `{name}` and {tuple(its.tensors[tensor].shape)} in `{other}`"
                    raise _wrong(key, f"{tensor} is {shapes}; merge models that were trained from one")
            if info.dtype not in FLOATS and info.dtype.itemsize == 1 and info.dtype is not torch.bool:
                message = f"`{name}` holds {tensor} as {info.dtype}, in few bits; give it in full precision"
                raise _wrong(f"{key}.{name}", message)


def _of_types(inputs: Inputs, settings: MergeStage) -> list[str]:
    """Warnings of weights that are stored in other types."""
    if settings.into == "adapter":
        return []
    told, first = [], inputs.first
    for name, source in inputs.models.items():
        both = [tensor for tensor in source.tensors if tensor in first.tensors and source is not first]
        other = [tensor for tensor in both if source.tensors[tensor].dtype is not first.tensors[tensor].dtype]
        if other:
            mine, its = (_plain(one.tensors[other[0]].dtype) for one in (source, first))
            result = settings.dtype or "as in the latter"
            owner = BASE if inputs.base is not None else next(iter(inputs.models))
            told.append(f"{len(other)} tensors are {mine} in `{name}` and {its} in `{owner}`; the result is {result}")
    return told


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _named(tensors: tuple[str, ...] | list[str]) -> str:
    return f"{len(tensors)} tensors: {', '.join(tensors[:NAMED])}{', …' if len(tensors) > NAMED else ''}"


def _wrong(key: str, message: str) -> StudyError:
    return StudyError(at(key), message, exit_code=Exit.PREFLIGHT_REFUSED)

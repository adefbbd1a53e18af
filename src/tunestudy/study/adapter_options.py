"""Which option belongs to which kind of adapter, and what combinations no training can carry out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunestudy.config.adapter import (
    OWN_FACTORS,
    AnyAdapter,
    DoraAdapter,
    LoraAdapter,
    LowRankOptions,
    MoleAdapter,
    SdoraAdapter,
    SoraAdapter,
)
from tunestudy.config.deepspeed import zero_stage
from tunestudy.config.model import ModelConfig
from tunestudy.config.paths import located
from tunestudy.config.stage import TrainStage
from tunestudy.study.nearest import nearest
from tunestudy.study.problems import Mistake

KINDS: dict[str, type[LoraAdapter | DoraAdapter | SoraAdapter | SdoraAdapter | MoleAdapter]] = {
    "lora": LoraAdapter,
    "dora": DoraAdapter,
    "sora": SoraAdapter,
    "sdora": SdoraAdapter,
    "mole": MoleAdapter,
}

DEFAULT_KIND = "lora"
"""Of an adapter that does not name its type."""


def option_of_another(kind: str, option: str) -> str | None:
    """What to say about an option that adapters of `kind` lack and others have; None when none has it."""
    owners = [name for name, adapter in KINDS.items() if option in adapter.model_fields]
    if not owners or kind not in KINDS:
        return None
    close = nearest(option, KINDS[kind].model_fields)
    hint = f"; nearest here is `{close}`" if close else ""
    verb = "belongs to" if len(owners) > 1 else "belongs only to"
    return f"`{option}` {verb} {' and '.join(owners)}; this adapter is {kind}{hint}"


def laid_over_kind(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, key by key; what only the kind below has is dropped when `above` names another kind.

    So a stage says `lora_r` once, and variants choose the type.
    """
    kind = str(above.get("type", below.get("type", DEFAULT_KIND)))
    if kind == below.get("type", DEFAULT_KIND) or kind not in KINDS:
        return {**below, **above}
    known = KINDS[kind].model_fields
    return {**{key: value for key, value in below.items() if key in known or option_of_none(key)}, **above}


def option_of_none(option: str) -> bool:
    """Whether no adapter has it: a slip of the pen, kept so that it is told."""
    return not any(option in adapter.model_fields for adapter in KINDS.values())


def adapter_mistakes(stage: TrainStage, sizes: dict[str, Any], *, engine: str) -> Iterator[Mistake]:
    """What is wrong with a stage's adapter and the base it sits on; `sizes` as of `model_sizes`."""
    if stage.adapter is not None:
        yield from rank_mistakes(stage.adapter, sizes)
        yield from start_mistakes(stage)
    if stage.quantization is not None:
        yield from quantisation_mistakes(stage, engine=engine)


def start_mistakes(stage: TrainStage) -> Iterator[Mistake]:
    """Starts at the base's own factors, where there are none to be had."""
    if not isinstance(stage.adapter, LoraAdapter) or stage.adapter.init_lora_weights not in OWN_FACTORS:
        return
    start, key = stage.adapter.init_lora_weights, ("adapter", "init_lora_weights")
    if stage.quantization is not None:
        yield Mistake(key, f"{start} needs the weights' own factors, which few bits do not keep; use default")
    if stage.adapter.target_parameters:
        yield Mistake(key, f"{start} starts from linear modules; use default with target_parameters")


def quantisation_mistakes(stage: TrainStage, *, engine: str) -> Iterator[Mistake]:
    """Combinations of few-bit weights that run and train nothing, or something else than asked for.

    `engine`: how ranks share a model. Sources: accelerate's fsdp2_prepare_model, which leaves uint8 weights whole on
    every GPU, and its issue 3983; bitsandbytes' issue 1945 on wider storage.
    """
    if engine == "deepspeed" and stage.quantization is not None and zero_stage(stage.deepspeed) == 3:
        yield Mistake(
            ("quantization",),
            "ZeRO stage 3 cannot slice weights in few bits: bitsandbytes packs them in a form of its own; use stage 2, "
            "which slices what learns, or engine: ddp",
        )
    if engine == "fsdp2" and stage.quantization is not None and stage.fsdp2.shard == "all":
        yield Mistake(
            ("quantization",),
            "fsdp2 cannot slice weights in few bits: packed as uint8 they stay whole on every GPU and losses of 0 have "
            "been seen, and packed in a wider type bitsandbytes computes with what slicing made of them; use "
            "fsdp2: {shard: gradients}, which slices only what learns, or engine: ddp",
        )


def rank_mistakes(adapter: AnyAdapter, sizes: dict[str, Any]) -> Iterator[Mistake]:
    """Ranks above the smaller side of a matrix that they would stand for, as far as the sizes are known."""
    sides = _smaller_sides(sizes)
    named = adapter.target_modules if isinstance(adapter.target_modules, tuple) else None
    matched = {name: side for name, side in sides.items() if named is None or name in named}
    if named is None and adapter.target_modules != "all-linear":
        matched = {}  # a regular expression: only the worker sees what it matches
    patterns = adapter.rank_pattern if isinstance(adapter, LowRankOptions) else {}
    if not patterns:
        yield from _too_large(("adapter", "lora_r"), adapter.lora_r, matched)
    for pattern, rank in patterns.items():
        of_pattern = {name: side for name, side in matched.items() if pattern.endswith(name)}
        yield from _too_large(("adapter", "rank_pattern", pattern), rank, of_pattern)


def _too_large(path: tuple[str, ...], rank: int, sides: dict[str, int]) -> Iterator[Mistake]:
    name = min(sides, key=lambda name: sides[name], default=None)
    if name is not None and rank > sides[name]:
        yield Mistake(
            path,
            f"rank {rank} is larger than the matrix: `{name}` of this model has rank {sides[name]} at most; "
            f"use {sides[name]} or less, or leave `{name}` out of target_modules",
        )


def _smaller_sides(sizes: dict[str, Any]) -> dict[str, int]:
    """Linear layer → its smaller side, for decoders with the usual names. Empty when sizes are not known."""
    sizes = sizes.get("text_config") if isinstance(sizes.get("text_config"), dict) else sizes  # type: ignore[assignment]
    hidden, inner, heads = (sizes.get(key) for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    if not isinstance(hidden, int):
        return {}
    sides: dict[str, int] = {}
    if isinstance(heads, int) and heads:
        given = sizes.get("head_dim")
        head = given if isinstance(given, int) and given else hidden // heads
        sides |= dict.fromkeys(("q_proj", "o_proj"), min(hidden, heads * head))
        kv_heads = sizes.get("num_key_value_heads")
        if isinstance(kv_heads, int):
            sides |= dict.fromkeys(("k_proj", "v_proj"), min(hidden, kv_heads * head))
    if isinstance(inner, int):
        sides |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), min(hidden, inner))
    return sides


def model_sizes(model: ModelConfig, folder: Path) -> dict[str, Any]:
    """The configuration of the study's model where it is at hand: given, or in a local folder. Else empty."""
    if model.architecture:
        return model.config
    path = located(folder, model.model_name_or_path or "") / "config.json"
    try:
        sizes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a hub id, or a folder that the worker will judge
    return sizes if isinstance(sizes, dict) else {}

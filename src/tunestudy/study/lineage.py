"""What each stage of a variant goes on from, and what it leaves: a walk along `after`, `init` and merges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.merge import STUDY_MODEL, MergeStage
from tunestudy.config.stage import AnyStage, TrainStage, inputs_of

Kind = Literal["model", "world", "lora", "dora", "sora", "sdora", "mole"]


@dataclass(frozen=True, kw_only=True)
class Left:
    """The result of one stage."""

    start: str | None
    """The stage whose weights it goes on from; None: the study's model, or a merge."""
    ancestors: tuple[str, ...]
    """Stages whose training is in its weights beside its own, oldest first; of a merge, those of all its inputs."""
    kind: Kind
    """A whole model, a world part, or the type of its adapter. A merged adapter is published as a LoRA; a mixture
    whose gates see nothing, too."""
    below: str | None
    """Of an adapter: the whole model it sits on, a stage or `model`; None where that is no single result."""
    few_bits: bool = False
    """Whether it is an adapter that was trained on weights in few bits."""


def lineage(stages: Mapping[str, AnyStage]) -> dict[str, Left]:
    """By stage, for those of a variant in order, `init` explicit. Names that refer to nothing are left out of it."""
    found: dict[str, Left] = {}
    previous: str | None = None
    for name, stage in stages.items():
        found[name] = _merged(stage, found) if isinstance(stage, MergeStage) else _trained(stage, previous, found)
        previous = name
    return found


def start_of(stage: TrainStage, previous: str | None) -> str | None:
    """The stage that a training stage goes on from, `init` explicit; `previous`: the one before it, if any."""
    return None if stage.init == "base" else stage.after or previous


def descends(one: str, other: str, found: Mapping[str, Left]) -> bool:
    """Whether `one` was trained from `other`; everything was from the study's model."""
    return other == STUDY_MODEL or (one in found and other in found[one].ancestors)


def _trained(stage: TrainStage, previous: str | None, found: Mapping[str, Left]) -> Left:
    start = start_of(stage, previous)
    start = start if start in found else None
    ancestors = (*found[start].ancestors, start) if start else ()
    if stage.adapter is None:
        return Left(start=start, ancestors=ancestors, kind="world" if stage.world else "model", below=None)
    folds = isinstance(stage.adapter, MoleAdapter) and stage.adapter.gate == "layer"
    return Left(
        start=start,
        ancestors=ancestors,
        kind="lora" if folds else stage.adapter.type,
        below=_below(stage, start, found),
        few_bits=stage.quantization is not None,
    )


def _below(stage: TrainStage, start: str | None, found: Mapping[str, Left]) -> str | None:
    if start is None:
        return STUDY_MODEL
    if found[start].kind == "model":
        return start
    return found[start].below if stage.init == "continue" else None


def _merged(stage: MergeStage, found: Mapping[str, Left]) -> Left:
    named = [one.stage for one in inputs_of(stage).values() if one.stage in found]
    held = dict.fromkeys(name for one in named if one for name in (*found[one].ancestors, one))
    if stage.into == "model":
        return Left(start=None, ancestors=tuple(held), kind="model", below=None)
    below = stage.base.stage if stage.base is not None else STUDY_MODEL
    return Left(start=None, ancestors=tuple(held), kind="lora", below=below)

"""How each stage of a variant starts: `init` made explicit, or refused with the choice explained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tunestudy.config.adapter import OWN_FACTORS, AnyAdapter, MoleAdapter, changed_shape
from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import AnyStage, TrainStage
from tunestudy.config.world import WORLD_ALONE, WorldSettings, changed_world
from tunestudy.study.nearest import did_you_mean

Init = Literal["continue", "merge_then_new", "stack", "base"]

_CHOICE = (
    "say how it starts: `continue` (train that adapter further), `merge_then_new` (fold it into the weights, start a "
    "new one), `stack` (freeze it, put a new one on top) or `base` (from the study's model, without it)"
)


@dataclass(frozen=True)
class Start:
    """How one stage starts; `mistake` says what is wrong with it at `key`, empty when nothing is."""

    init: Init
    mistake: str = ""
    key: str = "init"
    world: WorldSettings | None = None
    """The world part that the model has in this stage, its own or an earlier stage's."""


def resolve_starts(stages: Mapping[str, AnyStage]) -> dict[str, Start]:
    """The start of each training stage of a variant, given in order."""
    starts: dict[str, Start] = {}
    last: str | None = None
    for name, stage in stages.items():
        before, last = last, name
        if isinstance(stage, MergeStage):
            continue
        if stage.after is not None:
            earlier = list(stages)[: list(stages).index(name)]
            if stage.after not in earlier:
                wrong = f"there is no earlier stage `{stage.after}`; {did_you_mean(stage.after, earlier)}"
                starts[name] = Start("base", wrong, "after")
                continue
            before = stage.after
        start = _first(stage) if before is None else _after(stage, before, stages[before])
        inherited = starts[before].world if before in starts and start.init != "base" else None
        starts[name] = _with_world(start, stage, inherited)
    return starts


def _with_world(start: Start, stage: TrainStage, inherited: WorldSettings | None) -> Start:
    """`inherited`: the world part of the model that the stage starts from."""
    trained = stage.train if isinstance(stage.train, tuple) else ()
    world = stage.world or inherited
    if start.mistake:
        return replace(start, world=world)
    if world is None:
        lacks = "world_projector" in trained
        return replace(
            start,
            key="train",
            mistake="world_projector needs a `world:` in this stage or one before it" if lacks else "",
        )
    key, mistake = "init", ""
    if inherited and stage.world and (changed := changed_world(inherited, stage.world)):
        key, mistake = (
            "world",
            f"the stage before has one of another {', '.join(changed)}; keep it alike, or start from `base`",
        )
    elif stage.adapter or stage.quantization:
        key, mistake = "adapter", f"this stage inherits a world part; {WORLD_ALONE}"
    elif stage.train not in (None, "none", ("world_projector",)):
        key, mistake = "train", f"this stage inherits a world part; {WORLD_ALONE}"
    return replace(start, key=key, mistake=mistake, world=world)


def _first(stage: TrainStage) -> Start:
    if stage.init in (None, "base"):
        return Start("base")
    return Start(
        "base", f"`{stage.init}` needs a stage before it, and this is the variant's first: it starts from `base`"
    )


def _after(stage: TrainStage, name: str, parent: AnyStage) -> Start:
    if isinstance(parent, MergeStage):
        return _after_merged_adapter(stage, name) if parent.into == "adapter" else _after_whole_model(stage, name)
    if parent.adapter is None:
        return _after_whole_model(stage, name)
    if stage.init is None:
        return Start("base", f"`{name}` before it leaves an adapter; {_CHOICE}")
    if stage.init in ("merge_then_new", "stack") and (mistake := _unfoldable(name, parent.adapter)):
        return Start(stage.init, mistake)
    if stage.init in ("merge_then_new", "base"):
        return Start(stage.init)
    if isinstance(stage.adapter, MoleAdapter) and (
        stage.init == "stack" or not isinstance(parent.adapter, MoleAdapter)
    ):
        return Start(stage.init, _on_whole_models(name))
    if stage.adapter is None:
        cure = "to train in full, use `merge_then_new`"
        return Start(stage.init, f"`{stage.init}` after `{name}` needs an `adapter:`; {cure}")
    if stage.init == "continue" and getattr(parent.adapter, "init_lora_weights", None) in OWN_FACTORS:
        return Start(stage.init, f"`{name}` publishes its start beside its adapter; use `merge_then_new` or `stack`")
    return Start(stage.init, _adapter_change(name, parent.adapter, stage.adapter) if stage.init == "continue" else "")


def _after_merged_adapter(stage: TrainStage, name: str) -> Start:
    """Its rank is what the merge came to, so that no settings here could be those of `continue`."""
    if stage.init == "stack" and isinstance(stage.adapter, MoleAdapter):
        return Start("base", _on_whole_models(name))
    if stage.init in ("merge_then_new", "base") or (stage.init == "stack" and stage.adapter is not None):
        return Start(stage.init)
    return Start("base", f"`{name}` before it leaves a merged adapter; use `merge_then_new`, `stack` or `base`")


def _after_whole_model(stage: TrainStage, name: str) -> Start:
    if stage.init in ("merge_then_new", "stack"):
        needs = f"`{stage.init}` needs an adapter from the stage before, `{name}` has none"
        return Start("continue", f"{needs}; use `continue` or `base`")
    return Start(stage.init or "continue")


def _on_whole_models(name: str) -> str:
    cure = "use `merge_then_new`, which folds that in first, or `base`"
    return f"a mixture of experts sits on a whole model, and `{name}` leaves an adapter; {cure}"


def _unfoldable(name: str, adapter: AnyAdapter) -> str:
    if not isinstance(adapter, MoleAdapter) or adapter.gate == "layer":
        return ""
    cure = "only `gate: layer` does; start from `base`, or name another stage with `after:`"
    return f"`{name}` leaves a mixture whose gates see each {adapter.gate}, so it folds into no weights: {cure}"


def _adapter_change(name: str, old: AnyAdapter, new: AnyAdapter) -> str:
    changed = changed_shape(old, new)
    if not changed:
        return ""
    others = "`base`" if isinstance(old, MoleAdapter) else "`merge_then_new` or `stack`"
    return (
        f"`continue` trains the adapter of `{name}` further, but it differs here: {', '.join(changed)}; "
        f"keep it alike, or use {others}"
    )

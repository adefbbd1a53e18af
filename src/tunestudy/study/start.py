"""How each stage of a variant starts: `init` made explicit, or refused with the choice explained."""

from collections.abc import Iterator, Mapping

from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.stage import TrainStage

_CHOICE = (
    "say how it starts: `continue` (train that adapter further), `merge_then_new` (fold it into the weights, start a "
    "new one), `stack` (freeze it, put a new one on top) or `base` (from the study's model, without it)"
)
_SAME = ("type", "lora_r", "lora_alpha", "use_rslora", "target_modules")


def resolve_starts(stages: Mapping[str, TrainStage]) -> Iterator[tuple[str, TrainStage | str]]:
    """Each stage with `init` and `train` explicit, or, in place of it, what is wrong with its `init`."""
    before: tuple[str, TrainStage] | None = None
    for name, stage in stages.items():
        start, mistake = _first(stage) if before is None else _after(stage, *before)
        train = stage.train if stage.train is not None else ("none" if stage.adapter else "all")
        resolved = stage.model_copy(update={"init": start, "train": train})
        yield name, mistake or resolved
        before = name, resolved


def _first(stage: TrainStage) -> tuple[str, str]:
    if stage.init in (None, "base"):
        return "base", ""
    return "base", f"`{stage.init}` needs a stage before it, and this is the variant's first; it starts from `base`"


def _after(stage: TrainStage, name: str, parent: TrainStage) -> tuple[str, str]:
    if parent.adapter is None:
        if stage.init in ("merge_then_new", "stack"):
            return (
                "continue",
                f"`{stage.init}` needs an adapter from the stage before, `{name}` has none; use `continue` or `base`",
            )
        return stage.init or "continue", ""
    if stage.init is None:
        return "base", f"`{name}` before it leaves an adapter; {_CHOICE}"
    if stage.init in ("merge_then_new", "base"):
        return stage.init, ""
    if stage.adapter is None:
        return (
            stage.init,
            f"`{stage.init}` after `{name}` needs an `adapter:`; to train in full, use `merge_then_new`",
        )
    return stage.init, _adapter_change(name, parent.adapter, stage.adapter) if stage.init == "continue" else ""


def _adapter_change(name: str, old: LoraAdapter, new: LoraAdapter) -> str:
    changed = [
        f"{key} {getattr(old, key)} → {getattr(new, key)}" for key in _SAME if getattr(old, key) != getattr(new, key)
    ]
    if not changed:
        return ""
    return (
        f"`continue` trains the adapter of `{name}` further, but it differs here: {', '.join(changed)}; "
        "keep it alike, or use `merge_then_new` or `stack`"
    )

"""Components of the vision pipeline along the stages of a variant: added once, kept from then on."""

from collections.abc import Iterator, Mapping
from typing import Any

from tunestudy.config.components import VisionComponents
from tunestudy.config.merge import MergeStage
from tunestudy.config.stage import AnyStage, TrainStage
from tunestudy.study.lineage import start_of
from tunestudy.study.problems import Mistake

ARCHITECTURE = "internvl"
"""The `model_type` of transformers that has them."""

_Standing = tuple[str, VisionComponents]
"""(stage that added them, components)."""


def component_mistakes(stages: Mapping[str, AnyStage], model_type: str | None) -> Iterator[Mistake]:
    """What is wrong with the components of a variant's stages, given in order with `init` explicit.

    model_type: of the study's model; None where it is not known yet.
    """
    standing: dict[str, _Standing | None] = {}
    previous: str | None = None
    for name, stage in stages.items():
        before, previous = previous, name
        if isinstance(stage, MergeStage):
            standing[name] = _merged(stage, standing)
            continue
        start = start_of(stage, before)
        inherited = standing.get(start) if start else None
        wanted = stage.components
        below = stages.get(start) if start else None
        if wanted is not None and model_type not in (None, ARCHITECTURE):
            yield Mistake(
                (name, "components"),
                f"only InternVL has them (model_type {ARCHITECTURE}), and this study's model is {model_type}",
            )
        elif wanted is not None and inherited is not None and wanted != inherited[1]:
            yield Mistake(
                (name, "components"),
                f"`{inherited[0]}` before it added others ({_shown(inherited[1])}; here {_shown(wanted)}); a model "
                "keeps its components: name the same, leave them out, or start from `init: base`",
            )
        elif wanted is not None and inherited is None and _on_adapter(stage, below):
            yield Mistake(
                (name, "components"),
                f"cannot be added below an adapter that was trained without them (init: {stage.init}); add them in the "
                "first stage, or use `init: merge_then_new`",
            )
        standing[name] = inherited or (None if wanted is None else (name, wanted))


def _merged(stage: MergeStage, standing: Mapping[str, _Standing | None]) -> _Standing | None:
    """A merged model has the base's components, or those of the first model that has any."""
    return next((found for one in stage.inputs.values() if one.stage and (found := standing.get(one.stage))), None)


def model_type_of(sizes: Mapping[str, Any], architecture: str | None) -> str | None:
    """Of a fresh model, or of one whose config.json is at hand."""
    found = architecture or sizes.get("model_type")
    return found if isinstance(found, str) else None


def _on_adapter(stage: TrainStage, below: AnyStage | None) -> bool:
    adapted = isinstance(below, TrainStage) and below.adapter is not None
    return stage.init in ("continue", "stack") and (
        adapted or (isinstance(below, MergeStage) and below.into != "model")
    )


def _shown(components: VisionComponents) -> str:
    """The components that are on, with what differs from their defaults."""
    options = {name: getattr(components, name).model_dump(exclude_defaults=True) for name in components.named}
    return ", ".join(f"{name} {changed}" if changed else name for name, changed in options.items())

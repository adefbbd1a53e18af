"""Components of the vision pipeline along the stages of a variant: added once, kept from then on."""

from collections.abc import Iterator, Mapping
from typing import Any

from tunestudy.config.components import VisionComponents
from tunestudy.config.stage import TrainStage

ARCHITECTURE = "internvl"
"""The `model_type` of transformers that has them."""

Mistake = tuple[str, str]
"""(stage, message), at the stage's `components`."""


def component_mistakes(stages: Mapping[str, TrainStage], model_type: str | None) -> Iterator[Mistake]:
    """What is wrong with the components of a variant's stages, given in order with `init` explicit.

    model_type: of the study's model; None where it is not known yet.
    """
    standing: tuple[str, VisionComponents] | None = None
    below: TrainStage | None = None
    for name, stage in stages.items():
        if stage.init == "base":
            standing = None
        wanted = stage.components
        if wanted is not None and model_type not in (None, ARCHITECTURE):
            yield name, f"only InternVL has them (model_type {ARCHITECTURE}), and this study's model is {model_type}"
        elif wanted is not None and standing is not None and wanted != standing[1]:
            yield (
                name,
                f"`{standing[0]}` before it added others ({_shown(standing[1])}; here {_shown(wanted)}); a model keeps "
                "its components: name the same, leave them out, or start from `init: base`",
            )
        elif wanted is not None and standing is None and _on_adapter(stage, below):
            yield (
                name,
                f"cannot be added below an adapter that was trained without them (init: {stage.init}); add them in the "
                "first stage, or use `init: merge_then_new`",
            )
        if wanted is not None:
            standing = standing or (name, wanted)
        below = stage


def model_type_of(sizes: Mapping[str, Any], architecture: str | None) -> str | None:
    """Of a fresh model, or of one whose config.json is at hand."""
    found = architecture or sizes.get("model_type")
    return found if isinstance(found, str) else None


def _on_adapter(stage: TrainStage, below: TrainStage | None) -> bool:
    return below is not None and below.adapter is not None and stage.init in ("continue", "stack")


def _shown(components: VisionComponents) -> str:
    """The components that are on, with what differs from their defaults."""
    options = {name: getattr(components, name).model_dump(exclude_defaults=True) for name in components.named}
    return ", ".join(f"{name} {changed}" if changed else name for name, changed in options.items())

"""A model ready to train or to evaluate, with what reads text and images for it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tunestudy.config.job import Job
from tunestudy.data.vision import Vision
from tunestudy.models.components.world import world_of
from tunestudy.models.components.world_vision import WorldVision
from tunestudy.models.decoder import base_model_of
from tunestudy.models.identity import Identity
from tunestudy.models.origin import load_processor
from tunestudy.models.vision import vision_of
from tunestudy.records.layout import JobDir


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to train or to evaluate.

    `identity` tells the base weights apart (for manifests). `continues_adapter`: the parent's adapter is attached and
    trainable, so no new one belongs on it.
    """

    model: Any
    tokenizer: Any
    identity: Identity
    continues_adapter: bool = False
    gated: Path | None = None
    """The adapter to continue when it has gates, in its raw form; `model` is its base alone then."""
    processor: Any = None
    """Of images; None for a model without eyes."""

    @cached_property
    def vision(self) -> Vision | None:
        """How the model takes images."""
        own = vision_of(base_model_of(self.model).config, self.tokenizer, self.processor)
        part = world_of(self.model)
        return own if own is None or part is None else cast(Vision, WorldVision(own, part.settings))


def with_processor(loaded: LoadedModel, job: Job, folder: JobDir) -> LoadedModel:
    """With what turns images into the model's input."""
    base = base_model_of(loaded.model)
    return replace(loaded, processor=load_processor(job.model, folder.root / job.base_dir, base))

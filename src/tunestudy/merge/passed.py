"""Tensors that no method merges: those that are taken over as they are."""

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part
from tunestudy.merge.source import Source


def taken(source: Source) -> Method:
    """One model's, whatever the others hold."""

    return Method(lambda part: part.raw(source))


def equal_in_all(sources: dict[str, Source]) -> Method:
    """Of whole numbers, booleans and quantised values, which have no mean. StudyError where two differ."""
    (first, source), *others = sources.items()

    def merge(part: Part) -> Tensor:
        values = part.raw(source)
        for name, other in others:
            if not torch.equal(values.view(torch.uint8), part.raw(other, "other").view(torch.uint8)):
                kind = str(source.tensors[part.task.name].dtype).removeprefix("torch.")
                message = f"{part.task.name} ({kind}) differs between {first} and {name}, and such values have no mean"
                raise StudyError(at(f"models.{name}"), message, exit_code=Exit.PREFLIGHT_REFUSED)
        return values

    return Method(merge)

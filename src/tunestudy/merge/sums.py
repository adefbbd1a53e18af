"""What methods on differences have in common: how the merged difference joins the base."""

import math

from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.merge.parts import Part, Task


def factor_of(task: Task) -> float:
    """What a sum of weighted differences is multiplied with: `scale`, with `normalize` divided by the weights' sum."""
    if not task.normalize:
        return task.scale
    total = math.fsum(task.weights.values())
    if total == 0:
        raise StudyError(at("models"), f"the weights of {task.role} sum up to 0; leave normalize out")
    return task.scale / total


def add_differences(part: Part, merged: Tensor, factor: float) -> Tensor:
    """base + factor · merged, in the memory of `merged`."""
    return merged.mul_(factor).add_(part.base()) if factor != 1 else merged.add_(part.base())

"""Linear: Σ wᵢ xᵢ ÷ Σ wᵢ, without a base.

The average of models ("model soups", Wortsman et al. 2022, arXiv:2203.05482). With `normalize: false` the plain sum.
"""

import numpy as np
from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part, Task


def for_tensor(task: Task) -> Method:
    """StudyError when weights that are to be divided by sum up to 0."""
    weights = [np.float32(weight) for weight in task.weights.values()]
    total = float(np.add.reduce(weights)) if task.normalize is not False else 1.0
    if total == 0:
        raise StudyError(at("models"), f"the weights of {task.role} sum up to 0; linear divides by their sum")

    def merge(part: Part) -> Tensor:
        first, *others = task.models
        merged = part.value(first, "merged").mul_(task.weights[first])
        for model in others:
            merged.add_(part.value(model), alpha=task.weights[model])  # product and sum rounded once, as mergekit's
        return merged if total == 1 else merged.div_(total)

    return Method(merge)

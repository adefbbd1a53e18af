"""Task arithmetic: base + scale · Σ wᵢ τᵢ, where τᵢ = xᵢ − base is what a model learned.

Source: Ilharco et al. 2022, arXiv:2212.04089, whose one λ is `scale`. `normalize: true` divides by Σ wᵢ.
"""

from torch import Tensor

from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part, Task
from tunestudy.merge.sums import add_differences, factor_of


def for_tensor(task: Task) -> Method:
    factor = factor_of(task)

    def merge(part: Part) -> Tensor:
        merged = part.zeros("merged")
        for model, weight in task.weights.items():
            merged.add_(part.difference(model).mul_(weight))
        return add_differences(part, merged, factor)

    return Method(merge)

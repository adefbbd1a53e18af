"""DARE, then the sum: base + scale · Σ wᵢ mᵢ ⊙ τᵢ ÷ density, with mᵢ = 1 at random with probability `density`.

Dropped with rate p = 1 − density and rescaled by 1/(1 − p), each τᵢ keeps its expectation.
Source: Yu et al. 2023, arXiv:2311.03099, section 3, with task arithmetic. `normalize: true` divides by Σ wᵢ.
"""

from torch import Tensor

from tunestudy.merge.drop import Drop, drops_of
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part, Task
from tunestudy.merge.sums import add_differences, factor_of


def for_tensor(task: Task) -> Method:
    factor = factor_of(task)
    drops: dict[str, Drop] = drops_of(task)

    def merge(part: Part) -> Tensor:
        merged = part.zeros("merged")
        for model, weight in task.weights.items():
            kept = drops[model].apply(part, part.difference(model))
            merged.add_(kept.mul_(weight / task.densities[model]))
        return add_differences(part, merged, factor)

    return Method(merge)

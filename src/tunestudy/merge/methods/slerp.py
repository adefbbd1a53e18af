"""SLERP: from the first model to the second along the arc between their weights, each tensor as one vector.

x₁ sin((1 − t) θ)/sin θ + x₂ sin(t θ)/sin θ, where θ is the angle between x₁ and x₂; where they are nearly parallel
(|cos θ| > 0.9995), or one of them is 0, the straight line (1 − t) x₁ + t x₂.
Source: Shoemake 1985, "Animating rotation with quaternion curves".
"""

import math

import torch
from torch import Tensor

from tunestudy.merge.methods import Look, Method
from tunestudy.merge.parts import Part, Task

NEARLY_PARALLEL = 0.9995
"""Beyond it sin θ is so small that the quotient loses what float32 holds; mergekit's bound."""


def for_tensor(task: Task) -> Method:
    first, second = task.models
    factors = [1 - task.t, task.t]

    def products(part: Part) -> tuple[float, float, float]:
        one, other = part.value(first, "first"), part.value(second, "second")
        for values in (one, other):
            part.require_finite(values)
        return _dot(one, one), _dot(one, other), _dot(other, other)

    def settle(found: list[tuple[float, float, float]]) -> None:
        lengths, dot = math.sqrt(sum(row[0] for row in found) * sum(row[2] for row in found)), sum(r[1] for r in found)
        cosine = dot / lengths if lengths else 1.0
        if abs(cosine) <= NEARLY_PARALLEL:
            angle = math.acos(cosine)
            factors[:] = [math.sin((1 - task.t) * angle) / math.sin(angle), math.sin(task.t * angle) / math.sin(angle)]

    def merge(part: Part) -> Tensor:
        merged = part.value(first, "first").mul_(factors[0])
        return merged.add_(part.value(second, "second").mul_(factors[1]))

    return Method(merge, [Look(products, settle)])


def _dot(one: Tensor, other: Tensor) -> float:
    """In float64, summed in an order that neither threads nor addresses in memory change, unlike a BLAS's."""
    return float((one.to(torch.float64) * other.to(torch.float64)).sum().item())

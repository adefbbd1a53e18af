"""TIES's second half: elect a sign per value, and merge the models that have it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tunestudy.merge.parts import Part
from tunestudy.merge.sums import add_differences

Difference = Callable[[Part, str, str], Tensor]
"""(part, model, label of the memory) → its trimmed or dropped difference, (count,) float32, free to be written to."""
LEAST = torch.finfo(torch.float32).tiny


def merge_agreeing(part: Part, difference: Difference, rescale: Mapping[str, float]) -> Tensor:
    """base + scale · Σ_{i ∈ A} dᵢ ÷ Σ_{i ∈ A} |wᵢ|, (count,) float32: dᵢ = wᵢ rᵢ τᵢ, A: where dᵢ has the sign of Σ dᵢ.

    rescale: model → r, 1 for others. Without normalisation no division; where Σ dᵢ = 0, the base. Written without
    masks: torch's operations on booleans take many times as long as those on floats.
    Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1.
    """
    task = part.task
    elected = part.zeros("elected")
    weighted = []
    for number, (model, weight) in enumerate(task.weights.items()):
        found = difference(part, model, f"difference {number}").mul_(weight * rescale.get(model, 1.0))
        elected.add_(found)
        weighted.append(found)
    elected.sign_()
    merged, shares = part.zeros("merged"), part.zeros("shares")
    normalized = task.normalize is not False
    for found, weight in zip(weighted, task.weights.values(), strict=True):
        merged.add_(found.mul_(elected).clamp_(min=0))  # |d| where it agrees, else 0
        if normalized:
            shares.add_(found.sign_().mul_(abs(weight)))
    if normalized:
        merged.div_(shares.clamp_(min=LEAST))  # where nobody took part, 0 by whatever
    return add_differences(part, merged.mul_(elected), task.scale)

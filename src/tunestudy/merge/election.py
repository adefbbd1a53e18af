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
    factors = {model: weight * rescale.get(model, 1.0) for model, weight in task.weights.items()}
    found = {model: difference(part, model, f"difference {model}") for model in task.models}
    elected = _weighted_sum(part, "elected", found, factors).sign_()
    for model, values in found.items():  # wᵢ τᵢ has the elected sign s where s τᵢ has that of wᵢ
        values.mul_(elected)
        values.clamp_(min=0) if factors[model] >= 0 else values.clamp_(max=0)
    merged = _weighted_sum(part, "merged", found, factors)
    if task.normalize is not False:
        for values in found.values():
            values.sign_()
        merged.div_(_weighted_sum(part, "shares", found, task.weights).clamp_(min=LEAST))  # 0 where nobody took part
    return add_differences(part, merged.mul_(elected), task.scale)


def _weighted_sum(part: Part, label: str, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """In the order of the models."""
    (first, values), *others = terms.items()
    total = torch.mul(values, weights[first], out=part.scratch(label))
    for model, more in others:
        total.add_(more, alpha=weights[model])
    return total

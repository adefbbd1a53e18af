"""`compat: mergekit`: what mergekit 0.1.5 makes of the same settings, run with `--num-threads 1`.

Its methods bear the papers' names and differ from them: DARE's kept values are scaled until their sum of magnitudes is
that of all values, in place of by 1/density; signs are elected by weighted differences; and dare_ties is not divided
by the weights. Worked out from its documentation, https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md,
and from runs of it, which tests/golden/make_merge.py repeats.

It draws from one stream of random numbers for the whole model. So `begin` comes once, and tensors are merged in sorted
order of their names. Not for several threads. Sums of many values depend on the processor's vector width in their last
bits, in mergekit as well: equal bits need equal processors.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tunestudy.config.merge import MergeStage
from tunestudy.config.model import Role
from tunestudy.merge.one_stream import draws

NORMALIZE = {"linear": True, "task_arithmetic": False, "ties": True, "dare_linear": False, "dare_ties": False}
"""Whether a method divides by the weights unless the settings say otherwise."""
SMALL_WEIGHTS = 1e-8
"""A sum of weights below this divides nothing."""
PARALLEL = 0.9995
"""Cosine from which slerp goes in a straight line."""
SHORT = 1e-8
"""A norm up to this is not divided by."""


def merge_tensor(
    name: str,  # noqa: ARG001 - the other definitions of a merge are asked with it
    base: Tensor | None,
    models: Mapping[str, Tensor],
    settings: MergeStage,
    role: Role,
) -> Tensor:
    """One tensor merged, in the base's type, or without one in the first model's; shape as theirs.

    base: what differences are taken to; of `linear` and `slerp` None, or it is not looked at.
    """
    values = list(models.values())
    if settings.method == "slerp":
        return _slerp(values[0], values[1], settings.t)
    said = [settings.models[one] for one in models]
    weights = [one.weight_of(role) for one in said]
    normalize = NORMALIZE[settings.method] if settings.normalize is None else settings.normalize
    if settings.method == "linear":
        return _linear(values, weights, normalize=normalize)
    assert base is not None, f"{settings.method} has a base"
    densities = [one.density_of(role) for one in said]
    thin = THIN[settings.method]
    differences = [thin(value.to(base.dtype) - base, density) for value, density in zip(values, densities, strict=True)]
    elect = settings.method in ("ties", "dare_ties")
    merged = _summed(torch.stack(differences), weights, elect=elect, normalize=normalize)
    if settings.scale != 1:
        merged = merged * settings.scale
    return (base + merged).to(base.dtype)


def _linear(values: list[Tensor], weights: list[float], *, normalize: bool) -> Tensor:
    """Σ w x ÷ Σ w in float32, each product rounded together with its sum, and the type's rounding at the end."""
    total = torch.zeros(values[0].shape, dtype=torch.float32)
    for value, weight in zip(values, weights, strict=True):
        total.add_(value.to(torch.float32), alpha=weight)
    if normalize:
        total /= torch.tensor(weights, dtype=torch.float32).sum()
    return total.to(values[0].dtype)


def _all(difference: Tensor, density: float) -> Tensor:  # noqa: ARG001 - nothing is dropped
    return difference


def _largest(difference: Tensor, density: float) -> Tensor:
    """The largest values by magnitude, at least one; which of equals stay is the sort's choice, as in mergekit."""
    if density >= 1:
        return difference
    count = max(1, int(density * difference.numel()))
    magnitudes = difference.abs().flatten().to(torch.float32)
    kept = torch.zeros_like(difference).flatten()
    chosen = torch.argsort(magnitudes, descending=True)[:count]
    kept[chosen] = difference.flatten()[chosen]
    return kept.view(difference.shape)


def _chosen_by_lot(difference: Tensor, density: float) -> Tensor:
    """Values kept with a probability of `density`, drawn in their type, then scaled back to their sum of magnitudes."""
    if density >= 1:
        return difference
    kept = difference * torch.bernoulli(torch.full_like(difference, density), generator=draws)
    before, after = difference.abs().sum(), kept.abs().sum()
    return kept * (before / after) if after > 0 else kept


THIN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "task_arithmetic": _all,
    "ties": _largest,
    "dare_linear": _chosen_by_lot,
    "dare_ties": _chosen_by_lot,
}
"""Method → which values of a difference stay."""


def _summed(differences_M: Tensor, weights: list[float], *, elect: bool, normalize: bool) -> Tensor:
    """Σ w τ, with `elect` only of values whose sign is that of the sum, and divided by the weights that took part.

    Shapes: differences (models, …) → (…), in the differences' type.
    """
    ones = (1,) * (differences_M.dim() - 1)
    weights_M = torch.tensor(weights, dtype=differences_M.dtype).view(-1, *ones)
    weighted_M = differences_M * weights_M
    if not elect:
        merged, divisor = weighted_M.sum(0), weights_M.sum(0)
        divisor = torch.where(divisor.abs() < SMALL_WEIGHTS, 1, divisor)
        return merged / divisor if normalize else merged
    signs_M = weighted_M.sign()
    elected = torch.where(weighted_M.sum(0) >= 0, 1, -1).to(signs_M.dtype)
    agree_M = signs_M == elected
    merged, divisor = (weighted_M * agree_M).sum(0), (weights_M * agree_M).sum(0)
    divisor = torch.where(divisor == 0, 1, divisor)
    return merged / divisor if normalize else merged


def _slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """From the first to the second along the arc between them as one vector each, in float32."""
    start, end = first.to(torch.float32), second.to(torch.float32)
    cosine = float((_unit(start) * _unit(end)).sum())
    if abs(cosine) > PARALLEL:
        return ((1 - t) * start + t * end).to(first.dtype)
    angle = torch.arccos(torch.tensor(cosine))
    shares = [torch.sin(part * angle) / torch.sin(angle) for part in (1 - t, t)]
    return (shares[0] * start + shares[1] * end).to(first.dtype)


def _unit(vector: Tensor) -> Tensor:
    norm = vector.norm()
    return vector / norm if norm > SHORT else vector

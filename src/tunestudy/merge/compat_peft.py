"""`compat: peft`: what the functions that PEFT merges adapters with make of differences between models.

They bear the papers' names too. Signs are elected by the differences themselves, before weights; the sum of those that
agree is divided by how many they are; DARE rescales by 1/density. Source: PEFT 0.21,
https://huggingface.co/docs/peft/developer_guides/model_merging and `peft.utils.merge_utils`.

Random numbers come from one stream that `begin` starts, drawn tensor by tensor and model by model, as those functions
draw from torch's. Not for several threads.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.config.merge import TASK_VECTORS, MergeStage
from tunestudy.config.model import Role
from tunestudy.merge.one_stream import draws


def merge_tensor(
    name: str,  # noqa: ARG001 - the other definitions of a merge are asked with it
    base: Tensor | None,
    models: Mapping[str, Tensor],
    settings: MergeStage,
    role: Role,
) -> Tensor:
    """base + scale × the merged differences, summed in float32 and rounded to the base's type; shape as theirs.

    StudyError for methods and options that PEFT has not.
    """
    require_peft_has(settings)
    if settings.method not in TASK_VECTORS:
        raise StudyError(
            at("compat"),
            f"PEFT has no {settings.method} of models: what it calls linear is of adapters (into: adapter); use "
            "compat: paper or mergekit, or task_arithmetic, which is the same sum of differences",
        )
    assert base is not None, f"{settings.method} has a base"
    said = [settings.models[one] for one in models]
    start = base.to(torch.float32)
    merged = combine(
        settings.method,
        [value.to(torch.float32) - start for value in models.values()],
        [one.weight_of(role) for one in said],
        [one.density_of(role) for one in said],
    )
    return (start + settings.scale * merged).to(base.dtype)


def require_peft_has(settings: MergeStage) -> None:
    """StudyError for what no merge of PEFT's has, whatever it merges."""
    if settings.method == "slerp":
        raise StudyError(at("compat"), "PEFT has no slerp; use compat: paper or mergekit")
    if settings.normalize is not None:
        raise StudyError(at("normalize"), "PEFT's merges have no such option; leave it out, or use compat: paper")


def combine(method: str, values: Sequence[Tensor], weights: Sequence[float], densities: Sequence[float]) -> Tensor:
    """PEFT's sum of tensors of one shape, in their type.

    method: `linear` and `task_arithmetic` (Σ w v), `ties`, `dare_linear`, `dare_ties`. Densities are per tensor, where
    PEFT has one for all.
    """
    thin = THIN.get(method)
    if thin is not None:
        values = [
            value if density >= 1 else thin(value, density) for value, density in zip(values, densities, strict=True)
        ]
    values_M = torch.stack(list(values))
    weighted_M = values_M * torch.tensor(weights).view(-1, *(1,) * values[0].dim())
    if not method.endswith("ties"):
        return weighted_M.sum(0)
    elected = torch.where(values_M.sum(0) >= 0, 1, -1)
    agree_M = values_M.sign() == elected
    return (weighted_M * agree_M).sum(0) / agree_M.sum(0).clamp(min=1)


def _largest(value: Tensor, density: float) -> Tensor:
    """The largest by magnitude, rounded down to a whole number of them: none of a very small tensor."""
    chosen = torch.topk(value.abs().flatten(), int(density * value.numel())).indices
    kept = torch.zeros_like(value).flatten()
    kept[chosen] = value.flatten()[chosen]
    return kept.view(value.shape)


def _chosen_by_lot(value: Tensor, density: float) -> Tensor:
    return value * torch.bernoulli(torch.full_like(value, density), generator=draws) / density


THIN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "ties": _largest,
    "dare_linear": _chosen_by_lot,
    "dare_ties": _chosen_by_lot,
}
"""Method → which values stay."""

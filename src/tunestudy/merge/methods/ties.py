"""TIES: trim each τᵢ to its largest values, elect a sign per value, merge the models that agree with it.

base + scale · Σ_{i ∈ A} wᵢ tᵢ ÷ Σ_{i ∈ A} |wᵢ|. tᵢ: the k = max(1, ⌊density · n⌋) largest |τᵢ| of the tensor's n, the
others zero; of equal ones at the threshold those with the lower index. Elected is the sign of Σ wᵢ tᵢ, A are those
whose tᵢ has it there; where the sum is 0 nothing is added. With equal weights this is algorithm 1,
but for its trimming over whole models, here by tensor. `normalize: false` leaves the division out.
Source: Yadav et al. 2023, arXiv:2306.01708.
"""

from torch import Tensor

from tunestudy.merge.election import merge_agreeing
from tunestudy.merge.largest import Few, Largest
from tunestudy.merge.methods import Look, Method
from tunestudy.merge.parts import Part, Task


def for_tensor(task: Task) -> Method:
    kept = {model: Largest(task.num_values, share) for model, share in task.densities.items()}
    trimmed = {model: largest for model, largest in kept.items() if not largest.all}

    def rough(part: Part) -> None:
        for model, largest in trimmed.items():
            largest.rough(part, part.difference(model))

    def settle_rough(_found: list[None]) -> None:
        for largest in trimmed.values():
            largest.settle_rough()

    def fine(part: Part) -> list[Few]:
        return [largest.fine(part, part.difference(model)) for model, largest in trimmed.items()]

    def settle_fine(found: list[list[Few]]) -> None:
        for largest, of_parts in zip(trimmed.values(), zip(*found, strict=True), strict=True):
            largest.settle_fine(list(of_parts))

    def difference(part: Part, model: str, label: str) -> Tensor:
        return kept[model].apply(part, part.difference(model, label))

    def merge(part: Part) -> Tensor:
        return merge_agreeing(part, difference, {})

    looks = [Look(rough, settle_rough), Look(fine, settle_fine)] if trimmed else []
    return Method(merge, looks)

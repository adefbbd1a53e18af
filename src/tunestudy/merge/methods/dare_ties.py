"""DARE in place of TIES's trimming: drop and rescale each τᵢ, elect a sign per value, merge those that agree.

base + scale · Σ_{i ∈ A} wᵢ τ̃ᵢ ÷ Σ_{i ∈ A} |wᵢ|, with τ̃ᵢ = mᵢ ⊙ τᵢ ÷ density as of `dare_linear`, and A the models whose
τ̃ has the elected sign there. Sources: Yu et al. 2023, arXiv:2311.03099 (DARE before a method of merging), and Yadav
et al. 2023, arXiv:2306.01708 (election and disjoint mean).

The mean is over the values that took part, as TIES defines it and as DARE's authors let TIES do it. At a low density
most values come from one model alone, whose weight such a mean cancels: the weights then decide little but the
election. `normalize: false` leaves the division out, so that they scale what each model gives (mergekit's default).
"""

from torch import Tensor

from tunestudy.merge.drop import drops_of
from tunestudy.merge.election import merge_agreeing
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part, Task


def for_tensor(task: Task) -> Method:
    drops = drops_of(task)

    def difference(part: Part, model: str, label: str) -> Tensor:
        return drops[model].apply(part, part.difference(model, label))

    def merge(part: Part) -> Tensor:
        return merge_agreeing(part, difference, {model: 1 / share for model, share in task.densities.items()})

    return Method(merge)

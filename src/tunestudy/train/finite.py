"""What must be a number: a step's loss and its gradients, before they move the weights."""

import math

import torch
from torch import Tensor

from tunestudy.data.loader import Share
from tunestudy.train.run import Run

NAMED_SAMPLES = 8
"""How many samples of a micro-batch a message names."""
NAMED_BATCHES = 4


class LossNotFiniteError(FloatingPointError):
    """The loss or its gradients became NaN or infinite; the weights have not been moved by it."""


def require_finite(run: Run, nll: list[float], shares: list[Share], mine: list[Tensor]) -> None:
    """Stop before the weights are moved by a loss that is NaN or infinite.

    `nll` is the step's by source, alike on all ranks, so all of them come here together and can say which of their
    micro-batches it was: `mine` are this rank's, in the order of `shares`.
    """
    names = run.material.corpus.sources
    broken = [name for name, value in zip(names, nll, strict=True) if not math.isfinite(value)]
    if not broken:
        return
    here = [words_of(run, i, shares[i]) for i, sums in enumerate(mine) if not bool(torch.isfinite(sums).all())]
    found = [words for rank in run.world.gather_objects(here) for words in rank]
    where = "; ".join(found[:NAMED_BATCHES]) or "its sum alone"
    known = run.state.window.loss if run.state.window.loss is not None else run.state.last_train_loss
    before = "no loss came before it" if known is None else f"the loss before it was {known:.4g}"
    raise LossNotFiniteError(
        f"the loss of step {run.state.step + 1} is not finite, in data of {', '.join(broken)}: {where}; "
        f"{before}; a lower learning_rate, a longer warm-up or bf16 in place of fp16 usually cures it"
    )


def words_of(run: Run, index: int, share: Share) -> str:
    """Which micro-batch, and the ids of its samples."""
    ids = [run.material.corpus.sample_ids[sample] for sample in share.samples]
    more = f" and {len(ids) - NAMED_SAMPLES} more" if len(ids) > NAMED_SAMPLES else ""
    return f"micro-batch {index + 1} of rank {run.world.rank}, samples {', '.join(ids[:NAMED_SAMPLES])}{more}"


def require_finite_gradients(run: Run, grad_norm: float) -> None:
    """Stop before the weights are moved by gradients that are not finite; their norm is alike on all ranks.

    With fp16's loss scaling an overflow is normal: that step is left out.
    """
    if math.isfinite(grad_norm) or run.learner.precision.skips_steps:
        return
    raise LossNotFiniteError(
        f"the gradients of step {run.state.step + 1} are not finite (norm {grad_norm}), while its loss still is; "
        "a lower learning_rate, a longer warm-up, max_grad_norm or another attn_implementation usually cures it"
    )

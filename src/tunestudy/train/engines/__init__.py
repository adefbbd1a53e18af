"""Engines: how a micro-batch's gradient comes about and how ranks add theirs up, behind one small protocol."""

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.world import World


class Engine(Protocol):
    """What the loop asks of an engine."""

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        """The forward pass: sums of token losses of one micro-batch."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around one micro-batch's forward and backward; gradients travel between ranks in the `last` one only."""

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        """Add this micro-batch's gradient of Σ NLL ÷ `denominator` × `scale`.

        `denominator` counts the target tokens of the whole optimiser step over all micro-batches and ranks, so that
        the gradient does not depend on how the step is cut up.
        """


def open_engine(loss_model: LossModel, world: World) -> Engine:
    """The engine for this world: `single` for one rank, `ddp` for several."""
    from tunestudy.train.engines.ddp import DdpEngine
    from tunestudy.train.engines.single import SingleEngine

    return DdpEngine(loss_model, world) if world.size > 1 else SingleEngine(loss_model)

"""Engines: how a micro-batch's gradient comes about and how ranks add theirs up, behind one small protocol."""

from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from tunestudy.config.errors import StudyError, at
from tunestudy.config.stage import EngineSettings
from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.world import World

AUTO = EngineSettings()


class Engine(Protocol):
    """What the loop asks of an engine."""

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        """The forward pass: sums of token losses of one micro-batch."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around one micro-batch's forward and backward; gradients travel between ranks in the `last` one only."""

    gather_group: Any
    """Ranks that hold one whole model between them, for CPU tensors; None where every rank holds it all."""

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        """Add this micro-batch's gradient of Σ NLL ÷ `denominator` × `scale`.

        `denominator` counts the target tokens of the whole optimiser step over all micro-batches and ranks, so that
        the gradient does not depend on how the step is cut up.
        """


def open_engine(loss_model: LossModel, world: World, settings: EngineSettings = AUTO) -> Engine:
    """The engine that the settings name; one rank alone shares with nobody: `single`."""
    from tunestudy.train.engines.ddp import DdpEngine
    from tunestudy.train.engines.single import SingleEngine

    if world.size == 1:
        return SingleEngine(loss_model)
    if settings.engine == "fsdp2":
        from tunestudy.train.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(loss_model, world, settings.fsdp2)
    if settings.engine == "single":
        raise StudyError(
            at("engine"), f"single is one rank, and this job has {world.size}; leave it out, or set ranks: 1"
        )
    return DdpEngine(loss_model, world)

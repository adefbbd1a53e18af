"""Engines: how a micro-batch's gradient comes about and how ranks add theirs up, behind one small base class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.errors import StudyError, at
from tunestudy.config.stage import EngineSettings, OptimiserSettings
from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.optim import clip, make_optimizer
from tunestudy.train.trainable import Trainable
from tunestudy.train.world import World

AUTO = EngineSettings()


class Engine(ABC):
    """What the loop asks of an engine. What is not abstract here holds where gradients lie at their parameters."""

    gather_group: Any = None
    """Ranks that hold one whole run between them, for CPU tensors; None where every rank holds it all."""
    _loss_model: LossModel

    @abstractmethod
    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        """The forward pass: sums of token losses of one micro-batch."""

    @abstractmethod
    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around one micro-batch's forward and backward; gradients travel between ranks in the `last` one only."""

    @abstractmethod
    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        """Add this micro-batch's gradient of Σ NLL ÷ `denominator` × `scale`.

        `denominator` counts the target tokens of the whole optimiser step over all micro-batches and ranks, so that
        the gradient does not depend on how the step is cut up.
        """

    def train(self, mode: bool) -> None:
        """Into training or out of it, for layers that differ."""
        self._loss_model.train(mode)

    def evaluated(self, batch: Batch, *, num_sources: int) -> LossSums:
        """The forward pass without a gradient."""
        sums: LossSums = self._loss_model(batch, num_sources=num_sources)
        return sums

    def optimizer(self, trainables: Sequence[Trainable], settings: OptimiserSettings) -> torch.optim.Optimizer:
        """The optimiser that moves them. Called once."""
        return make_optimizer(trainables, settings)

    def clip(self, trainables: Sequence[Trainable], max_norm: float | None) -> float:
        """Scale all gradients of the step so that their 2-norm is at most `max_norm`; returns the norm before."""
        return clip(trainables, max_norm)

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Whether the first step's micro-batches of this rank gave it one."""
        return parameter.grad is not None

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """As the optimiser will see it, between `clip` and its step; whole or a DTensor. All ranks call."""
        return parameter.grad

    def value(self, parameter: nn.Parameter) -> Tensor:
        """The parameter's numbers now; whole or a DTensor. All ranks call."""
        return parameter.detach()

    def between_gatherings(self) -> Sequence[nn.Module]:
        """Parts that compute without waiting for other ranks, where a forward pass as a whole does wait; else none."""
        return ()

    def finish(self) -> None:  # noqa: B027 - nothing to give back
        """After the last step: give the model back what was taken out of it."""

    def close(self) -> None:  # noqa: B027 - nothing is held
        """Let go of what would outlive the run."""


def open_engine(loss_model: LossModel, world: World, settings: EngineSettings = AUTO) -> Engine:
    """The engine that the settings name; one rank alone shares with nobody: `single`."""
    from tunestudy.train.engines.ddp import DdpEngine
    from tunestudy.train.engines.single import SingleEngine

    if world.size == 1:
        return SingleEngine(loss_model)
    if settings.engine == "fsdp2":
        from tunestudy.train.engines.fsdp2 import Fsdp2Engine

        return Fsdp2Engine(loss_model, world, settings.fsdp2)
    if settings.engine == "deepspeed":
        from tunestudy.train.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(loss_model, world, settings.deepspeed)
    if settings.engine == "single":
        raise StudyError(
            at("engine"), f"single is one rank, and this job has {world.size}; leave it out, or set ranks: 1"
        )
    return DdpEngine(loss_model, world)

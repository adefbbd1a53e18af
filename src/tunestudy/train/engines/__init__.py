"""Engines: how a micro-batch's gradient comes about and how ranks add theirs up, behind one small protocol."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossSums, token_losses
from tunestudy.train.world import World


class Engine(Protocol):
    """What the loop asks of an engine."""

    def losses(self, batch: Batch) -> LossSums:
        """The forward pass: sums of token losses of one micro-batch."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Around one micro-batch's forward and backward; gradients travel between ranks in the `last` one only."""

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        """Add this micro-batch's gradient of Σ NLL ÷ `denominator` × `scale`.

        `denominator` counts the target tokens of the whole optimiser step over all micro-batches and ranks, so that
        the gradient does not depend on how the step is cut up.
        """


class LossModule(nn.Module):
    """Model and loss as one module, so that wrappers of modules see one forward from batch to loss."""

    def __init__(self, model: nn.Module, *, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> LossSums:
        sums = token_losses(self.model, batch, label_smoothing=self.label_smoothing)
        if not sums.nll_sum.requires_grad and torch.is_grad_enabled():
            sums.nll_sum = sums.nll_sum + sum(self._zeros())
        return sums

    def _zeros(self) -> Iterator[Any]:
        """A zero that depends on a trainable tensor: a micro-batch without targets still needs a backward pass."""
        parameter = next(parameter for parameter in self.parameters() if parameter.requires_grad)
        yield parameter.flatten()[0] * 0.0


def open_engine(model: nn.Module, world: World, *, label_smoothing: float) -> Engine:
    """The engine for this world: `single` for one rank, `ddp` for several."""
    from tunestudy.train.engines.ddp import DdpEngine
    from tunestudy.train.engines.single import SingleEngine

    loss_module = LossModule(model, label_smoothing=label_smoothing)
    return DdpEngine(loss_module, world) if world.size > 1 else SingleEngine(loss_module)

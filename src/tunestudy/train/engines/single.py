"""One rank: gradients stay where they are."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from tunestudy.data.batch import Batch
from tunestudy.train.engines import LossModule
from tunestudy.train.loss import LossSums


class SingleEngine:
    """Plain autograd."""

    def __init__(self, loss_module: LossModule) -> None:
        self._module = loss_module

    def losses(self, batch: Batch) -> LossSums:
        sums: LossSums = self._module(batch)
        return sums

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - part of the protocol
        return nullcontext()

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        (nll_sum * (scale / denominator)).backward()

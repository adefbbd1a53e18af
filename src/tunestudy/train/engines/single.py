"""One rank: gradients stay where they are."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from tunestudy.data.batch import Batch
from tunestudy.train.engines import Engine
from tunestudy.train.loss import LossModel, LossSums


class SingleEngine(Engine):
    """Plain autograd."""

    def __init__(self, loss_model: LossModel) -> None:
        self._loss_model = loss_model

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        sums: LossSums = self._loss_model(batch, label_smoothing=label_smoothing, num_sources=num_sources)
        return sums

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - part of the protocol
        return nullcontext()

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        (nll_sum * (scale / denominator)).backward()  # type: ignore[no-untyped-call]

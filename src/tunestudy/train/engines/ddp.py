"""Several ranks, each with the whole model: torch's DistributedDataParallel, without glue around it.

`find_unused_parameters` is on for two reasons. A tensor that a rank's micro-batches did not touch (an expert no token
was sent to, a part no sample uses) must not hang the step, and one that no rank touched must stay without a gradient
so that the check after the first step can name it. And DDP then never regroups its buckets after the first step, so
that the order of additions, hence every bit, is the same in a run that was resumed.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tunestudy.data.batch import Batch
from tunestudy.train.engines import Engine
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.world import World

SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)
"""The option for copying rank 0's buffers before every forward pass (these models' buffers are constants)."""


class DdpEngine(Engine):
    """Raw DDP; it averages over ranks, so the loss is multiplied by their number to make a sum."""

    def __init__(self, loss_model: LossModel, world: World) -> None:
        self._size = world.size
        self._loss_model = loss_model
        options: dict[str, Any] = {SYNC_BUFFERS: False}
        self._module = DistributedDataParallel(
            loss_model,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
            **options,
        )

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        sums: LossSums = self._module(batch, label_smoothing=label_smoothing, num_sources=num_sources)
        return sums

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self._module.no_sync()

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        (nll_sum * (scale * self._size / denominator)).backward()  # type: ignore[no-untyped-call]

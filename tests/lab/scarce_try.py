"""`python -m scarce_try FOLDER`: a try of `tune-batch` on a card of its own kind, which holds few rows at a time.

`MEMORY_ROWS`: a micro-batch with more samples does not fit. `MEMORY_RANK`: on this rank alone.
"""

import os
import sys

import torch

from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.try_batch import main

HOLDS = int(os.environ["MEMORY_ROWS"])
SCARCE = os.environ.get("MEMORY_RANK") in (None, os.environ.get("RANK", "0"))
forward = LossModel.forward


def scarce_forward(self: LossModel, batch: Batch, **options: object) -> LossSums:
    if SCARCE and batch.num_samples > HOLDS:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {batch.num_samples} GiB.")
    return forward(self, batch, **options)  # type: ignore[arg-type]


LossModel.forward = scarce_forward  # type: ignore[method-assign,assignment]
if __name__ == "__main__":
    main(sys.argv[1])

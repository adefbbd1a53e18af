"""`python scarce_worker.py JOB_DIR`: the real worker on a card of its own kind, which holds few rows at a time.

`MEMORY_ROWS`: a micro-batch with more rows of padded text does not fit. `MEMORY_RANK`: on this rank alone.
"""

import os
import sys

import torch

from tunestudy import worker
from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums

HOLDS = int(os.environ["MEMORY_ROWS"])
SCARCE = os.environ.get("MEMORY_RANK") in (None, os.environ.get("RANK", "0"))
FROM_STEP = int(os.environ.get("MEMORY_FROM_STEP", "1"))
forward = LossModel.forward
passes = 0


def scarce_forward(self: LossModel, batch: Batch, **options: object) -> LossSums:
    global passes
    passes += self.training
    if SCARCE and len(batch.input_ids) > HOLDS and passes >= FROM_STEP:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(batch.input_ids)} GiB.")
    return forward(self, batch, **options)  # type: ignore[arg-type]


LossModel.forward = scarce_forward  # type: ignore[method-assign,assignment]
if __name__ == "__main__":
    sys.exit(worker.main(sys.argv[1]))

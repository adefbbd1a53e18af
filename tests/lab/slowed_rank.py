"""A worker whose rank 1 computes slowly: every block of its model sleeps a while in its forward pass."""

import os
import time
from typing import Any

from tunestudy import worker

SLEEP_S = 0.03


def main(root: str) -> int:
    if os.environ["RANK"] == "1":
        from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

        usual = Qwen3MLP.forward

        def slowly(self: Any, *inputs: Any) -> Any:
            time.sleep(SLEEP_S)
            return usual(self, *inputs)

        Qwen3MLP.forward = slowly
    return worker.main(root)

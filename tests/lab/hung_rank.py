"""A worker one of whose ranks hangs on its way, as `hang.json` in the job's folder says.

`{"rank": 1, "class": "tunestudy.train.world:World", "method": "after_rank_0", "how": "suspended", "busy_s": 5}`: it
hangs where that method is called; `asleep` is a process that lives. Rank 0 spends `busy_s` there by itself.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tunestudy import worker


def main(root: str) -> int:
    told = json.loads((Path(root) / "hang.json").read_text())
    module, _, name = told["class"].partition(":")
    owner = getattr(importlib.import_module(module), name)
    usual, mine = getattr(owner, told["method"]), int(os.environ["RANK"])

    def method(self: Any, *inputs: Any, **options: Any) -> Any:
        if mine == told["rank"]:
            _hang(told["how"])
        elif mine == 0:
            time.sleep(told["busy_s"])
        return usual(self, *inputs, **options)

    setattr(owner, told["method"], method)
    return worker.main(root)


def _hang(how: str) -> None:
    while True:
        if how == "suspended":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

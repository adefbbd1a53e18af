"""A worker that takes its time over each part of a merge and each token that it generates.

SLOW_S: for how long; SUSPENDED_AT: the part or token before which the first attempt suspends itself.
"""

import os
import signal
import sys
import time
from itertools import count
from typing import Any

from tunestudy import worker

TURNS = count(1)


def main(root: str) -> int:
    from tunestudy.bench.scorer import TellsOfTokens
    from tunestudy.merge.parts import Part

    slow_down(TellsOfTokens, "__call__")
    slow_down(Part, "result")
    return worker.main(root)


def slow_down(kind: type, name: str) -> None:
    """Every call of a method."""
    usual = getattr(kind, name)

    def slowly(self: Any, *inputs: Any, **options: Any) -> Any:
        if next(TURNS) == int(os.environ["SUSPENDED_AT"]) and os.environ["TUNESTUDY_ATTEMPT"] == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(float(os.environ["SLOW_S"]))
        return usual(self, *inputs, **options)

    setattr(kind, name, slowly)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

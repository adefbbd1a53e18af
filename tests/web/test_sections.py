"""The process that makes the tables."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tunestudy.web.sections import Maker


def test_a_maker_that_is_killed_while_idle_is_begun_anew(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    pool = maker._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
    until = time.monotonic() + 30
    while not pool._broken and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.01)
    maker.look("a state")
    assert maker._pool is None
    try:
        maker.look("a state")
        assert maker._pool is not None and maker._future is not None
    finally:
        maker.close()

"""The process that makes the tables."""

import errno
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tunestudy.web import sections
from tunestudy.web.sections import Maker


def test_a_machine_that_starts_no_process_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Maker(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as full:
        full.setattr(sections, "ProcessPoolExecutor", refuse)
        maker.look("a state")
    assert "Cannot allocate memory" in maker.latest.problem and maker.version == 1
    begun = []
    monkeypatch.setattr(maker, "_begin", begun.append)
    maker.look("a state")
    assert begun == [], "not at once"
    maker._not_before = 0.0
    maker.look("a state")
    assert begun == ["a state"]


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

"""Launchers of one study list themselves while others do so too, and strike off those that were killed."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from tunestudy.records import lease
from tunestudy.records.launchers import launchers, present
from tunestudy.records.layout import StudyDir

ROUNDS = 10
PEOPLE = 3


def slow_name() -> str:
    """A user's name where it is looked up over the network, as on a cluster."""
    time.sleep(0.005)
    return "someone"


def come_and_go(root: Path, together: Any) -> None:
    """Begin at the same moment as the others, `ROUNDS` times."""
    lease.user_name = slow_name  # type: ignore[assignment]
    for _ in range(ROUNDS):
        together.wait(30)
        with present(StudyDir(root)):
            assert os.getpid() in [one.pid for one in launchers(StudyDir(root))]


def come_and_be_killed(root: Path) -> None:
    with present(StudyDir(root)):
        os._exit(9)


def started(target: Any, *arguments: object) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process  # type: ignore[return-value]


def test_launchers_that_begin_at_once_leave_each_other_alone(tmp_path):
    together = multiprocessing.get_context("fork").Barrier(PEOPLE)
    people = [started(come_and_go, tmp_path, together) for _ in range(PEOPLE)]
    for one in people:
        one.join(60)
    assert [one.exitcode for one in people] == [0] * PEOPLE
    assert launchers(StudyDir(tmp_path)) == []


def test_a_killed_launcher_is_struck_off_and_one_about_to_begin_is_not(tmp_path):
    study = StudyDir(tmp_path)
    killed = started(come_and_be_killed, tmp_path)
    killed.join(60)
    (left,) = study.launchers.iterdir()
    (beginning := study.launchers / "another").mkdir()  # its lease comes in a moment
    with present(study):
        assert not left.exists() and beginning.is_dir()
        assert [one.pid for one in launchers(study)] == [os.getpid()]

"""Hosts whose clocks are hours apart carry out one study: its job runs once at a time, and nothing is taken from who
lives."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clocks import ahead_by, wrong_clock
from digit_reader import MODEL
from hosts import LabHosts, lab_hosts

from tunestudy.records.events import read_events
from tunestudy.records.host import user_name
from tunestudy.records.lease import STALE_S

STEPS = 40
STUDY = (
    """\
study: shared
seeds: [1]
"""
    + MODEL
    + """\
datasets: {digits: {type: digits, trim: true, limit: 200}}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: STEPS, max_length: 80,
           full_save_steps: 5}
stages: {train: }
variants: {only: {stages: [train]}}
"""
)
AHEAD_H = {1: 0, 2: 2, 3: -2}
"""By which each host's clock is ahead."""
OTHERS = (2, 3)


class Person:
    """`tunestudy run` on a host, and what it has said so far."""

    def __init__(self, lab: LabHosts, host: int, folder: Path, library: Path) -> None:
        self._log = folder / f"said-on-h{host}.txt"
        command = lab.command(host, [sys.executable, "-u", "-m", "tunestudy.cli", "run", "study.yaml"], folder)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **ahead_by(library, AHEAD_H[host]), "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()


def silent_for(study: Path, seconds: float) -> None:
    """Every lease as if its holder had been heard of so long ago, by the file server's time."""
    when = time.time() - seconds
    for leases in ("jobs/*/lease/*.json", "jobs/*/claim/*.json", "leases/*/*/*.json"):
        for file in study.glob(leases):
            os.utime(file, (when, when))


@pytest.mark.slow
@pytest.mark.lab
@pytest.mark.compiler
def test_two_hours_steal_nothing_and_keep_nobody_waiting(tmp_path: Path, until: Callable[..., None]) -> None:
    (folder := tmp_path / "work").mkdir()
    (folder / "study.yaml").write_text(STUDY.replace("STEPS", str(STEPS)))
    study, library = folder / "results" / "shared", wrong_clock(tmp_path)
    with lab_hosts(tmp_path / "net", len(AHEAD_H)) as lab:
        first = Person(lab, 1, folder, library)
        until(lambda: list(study.glob("jobs/*/checkpoint-5")) or first.process.poll() is not None, "a checkpoint")
        lab.run(1, ["pkill", "-STOP", "-f", "tunestudy.worker"])  # as on a host that is slow, yet not lost
        others = [Person(lab, host, folder, library) for host in OTHERS]
        until(lambda: all("started by" in one.said for one in others), "word of who runs it")
        lab.power_off(1)
        silent_for(study, STALE_S - 20)
        time.sleep(2)
        assert len(starts(study)) == 1, "a host that was heard of within the time that counts is not lost"
        silent_for(study, STALE_S + 1)
        for one in others:
            assert one.process.wait(60) == 0, one.said
    told = [one.said for one in others]
    by_whom = f"started by process {starts(study)[0]['run']} on h1 ({user_name()}, since "
    assert all(by_whom in one for one in told), told
    assert "clock is 2.0 h ahead of the one" in told[0] and "clock is 2.0 h behind the one" in told[1]
    assert [start["attempt"] for start in starts(study)] == [1, 2]
    assert sum("done by another run" in one for one in told) == 1
    (result,) = (json.loads(file.read_text()) for file in study.glob("jobs/*/result.json"))
    assert result["resumed_from"] and result["steps"] == STEPS
    (log,) = study.glob("jobs/*/loss_log.csv")
    steps = [int(row["step"]) for row in csv.DictReader(log.open())]
    assert steps == sorted(set(steps))
    times = [event["t"] for event in read_events(study / "events")]
    assert times[-1] - times[0] < 600 and abs(times[-1] - time.time()) < 600, "all tell the file server's time"


def starts(study: Path) -> list[dict[str, Any]]:
    """What the journals tell of every start of the job; `run`: the process that started it."""
    events = read_events(study / "events")
    runs = {event["writer"]: event["pid"] for event in events if event["event"] == "run_started"}
    return [{**event, "run": runs[event["writer"]]} for event in events if event["event"] == "job_started"]

"""Real ranks that hang where rank 0 alone would not tell: found by their own signs, named, and ended."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tinyjob import make_job
from tinyranks import ENVIRONMENT

from tunestudy.launch import torchrun
from tunestudy.launch.hang import Patience, SignsOfLife, end_if_it_hangs
from tunestudy.launch.torchrun import torchrun_command

pytestmark = [pytest.mark.slow, pytest.mark.alone]

LAB = Path(__file__).parents[1] / "lab"
TIMEOUT_S = 4.0
PATIENCE = Patience(still_s=6.0, start_s=60.0)


class Started:
    """torchrun and its ranks, as the launcher has them."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def show_stacks(self) -> None:
        torchrun.show_stacks(self.process.pid)

    def kill(self) -> None:
        torchrun.kill(self.process.pid)


def watched(tmp_path: Path, **hang: Any) -> tuple[str, int, dict[str, Any]]:
    """What the launcher's watch finds, of which rank, and what progress.json tells then."""
    folder = make_job(tmp_path, engine="ddp", max_steps=4, full_save_steps=None, save_steps=None)
    (folder.root / "hang.json").write_text(json.dumps({"rank": 1, "busy_s": 0, **hang}))
    command = torchrun_command(folder, 2, "hung_rank")
    path = os.pathsep.join([str(LAB), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**ENVIRONMENT, "TUNESTUDY_TIMEOUT_S": str(TIMEOUT_S), "PYTHONPATH": path}
    running = Started(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    signs, give_up = SignsOfLife(), time.monotonic() + 90
    while running.process.poll() is None:
        end_if_it_hangs(signs, running, folder, 1, PATIENCE)
        if time.monotonic() > give_up:
            running.kill()
        time.sleep(0.1)
    return signs.hang, signs.rank, json.loads(folder.progress_json.read_text())


def test_a_rank_that_is_suspended_while_rank_0_saves(tmp_path: Path) -> None:
    world = {"class": "tunestudy.train.world:World", "method": "after_rank_0"}
    hang, rank, told = watched(tmp_path, **world, how="suspended", busy_s=600)
    assert rank == 1 and told["phase"] == "save"
    assert hang.startswith("rank 1 on ") and " gave no sign of life for " in hang
    assert "; rank 1 stood at publish.py:" in hang and hang.endswith("in publish_result")


def test_a_rank_that_never_comes_to_the_end_of_a_job_that_is_done(tmp_path: Path) -> None:
    ranks = {"class": "tunestudy.train.roll_call:RollCall", "method": "leave_together"}
    hang, _, told = watched(tmp_path, **ranks, how="asleep")
    assert hang.startswith("its processes do not end, ") and told["phase"] == "done"

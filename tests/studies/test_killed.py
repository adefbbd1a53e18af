"""Killed with -9 at three random moments on its way, a study ends with the table of the one that was left alone."""

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from five import FIVE, STUDIES, carry_out

pytestmark = pytest.mark.killed_study
KILLS = 3


def run_until(moment_s: float, name: str, folder: Path) -> bool:
    """Start the study and kill every process of it after that many seconds; whether it still ran then."""
    program = Path(sys.executable).with_name("tunestudy")
    words = ["run", STUDIES / f"{name}.yaml", "--tiny", "--results", folder]
    with open(folder / "said.txt", "ab") as said:
        run = subprocess.Popen([program, *words], cwd=folder, stdout=said, stderr=said, start_new_session=True)
        try:
            assert run.wait(moment_s) == 0, (folder / "said.txt").read_text()[-4000:]
        except subprocess.TimeoutExpired:
            tree = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
            for process in tree:
                with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
                    process.kill()
            psutil.wait_procs(tree, timeout=30)
            run.wait(30)
            return True
    return False


@pytest.mark.parametrize("name", FIVE)
def test_the_table_stays_what_it_was(finished, tmp_path, name):
    quiet = finished(name)
    draw = random.Random(seed := int(os.environ.get("KILL_SEED", time.time_ns() % 10**6)))
    whole_s = quiet.took_s
    print(f"KILL_SEED={seed}")
    killed = 0
    for _ in range(KILLS):
        killed += run_until(draw.uniform(0.05, 0.3) * whole_s, name, tmp_path)
    assert killed == KILLS, f"it ended before it could be killed {KILLS} times, KILL_SEED={seed}"
    assert carry_out(name, tmp_path).table() == quiet.table(), f"KILL_SEED={seed}"

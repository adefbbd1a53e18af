"""Three of the kills of `benchmarks/kills.py`: the background writer, the launcher, and everything at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_killed_studies_end_like_undisturbed_ones() -> None:
    points = ["writer: publish", "launcher: append, job started"]
    done = subprocess.run(
        [sys.executable, KILLS, "--steps", "24", "--random-steps", "24", "--random", "1", "--points", *points],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills, 3 comparisons, 3 identical" in done.stdout

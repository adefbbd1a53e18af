"""The launcher is killed at its durable steps; the next `run` must end with the same results, each job run once."""

import json
import os
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

EVENTS = "tunestudy.append,os.rename,os.link"
LAB = Path(__file__).parents[1] / "lab" / "killpoints"


def killed_at(point: int, log: Path | None = None) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join([str(LAB), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "KILL_EVENTS": EVENTS,
        "KILL_AT": str(point),
        "KILL_PROCESS": "fake_launcher",
        **({"KILL_LOG": str(log)} if log else {}),
    }


def check_survives(study, undisturbed, point: int) -> bool:
    """Kill at the `point`-th step, run again; False when the run ended before that."""
    process = study.launch(env=killed_at(point))
    output, _ = process.communicate(timeout=60)
    killed = process.returncode == -signal.SIGKILL
    assert killed or process.returncode == 0, output
    assert study.run()[0] == 0
    assert study.values() == undisturbed()
    for job in study.jobs:
        assert study.steps(job.stage) == [1, 2, 3], f"{job.stage} repeated or lost a step"
    for path in study.dir.root.rglob("*.json"):
        json.loads(path.read_text())  # none is half-written
    return killed


@pytest.fixture
def undisturbed(fresh_study):
    values: dict[str, str] = {}

    def make() -> dict[str, str]:
        if not values:
            study = fresh_study("undisturbed")
            assert study.run()[0] == 0
            values.update(study.values())
        return values

    return make


@pytest.mark.parametrize("point", [4, 33])
def test_killed_while_preparing_and_while_running(fresh_study, undisturbed, point):
    assert check_survives(fresh_study("killed"), undisturbed, point)


@pytest.mark.slow
def test_killed_at_every_durable_step(fresh_study, tmp_path):
    def two_jobs(name: str):
        study = fresh_study(name)
        study.keep("base", "adapt")
        return study

    log = tmp_path / "points"
    whole = two_jobs("counted")
    assert whole.launch(env=killed_at(0, log)).wait(60) == 0
    points = len(log.read_text().splitlines())
    assert points > 20
    killed = [check_survives(two_jobs(f"k{point}"), whole.values, point) for point in range(1, points + 1)]
    assert all(killed), "two jobs in a row take the same steps in every run"

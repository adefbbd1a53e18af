"""Real workers, suspended while they merge or are asked a benchmark, are ended and tried again; slow ones live."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from mergelab import MergeLab
from tinyjob import make_job

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.local import find_slots
from tunestudy.launch.place import ThisMachine
from tunestudy.records.atomic import write_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SLOW = Path(__file__).parents[1] / "lab" / "slow_work.py"
TIMEOUT_S = 2.0
"""So that 3 s of silence are a hang, and 5 s of slow work are none."""


def carried_out(folder: JobDir, env: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    folders = [JobDir(path) for path in sorted(folder.root.parent.iterdir())]
    jobs = [Job.model_validate_json(one.job_json.read_text()) for one in folders]
    wanted = Resources(slots=1, timeout_s=TIMEOUT_S)
    model = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
    study = Study(study="s", seeds=(1,), model=model, variants={"v": {"stages": {}}}, resources=wanted, env=env)
    command = lambda place, _ranks: [sys.executable, "-u", str(SLOW), str(place.root)]  # noqa: E731
    code = carry_out(study, jobs, folder.study, place=ThisMachine(find_slots(wanted), command), quiet=False)
    return code, list(read_events(folder.study.events))


def a_merge(root: Path) -> JobDir:
    """Of 21 tensors, one after the other."""
    lab = MergeLab(root)
    done = [lab.trained("en", 1), lab.trained("ko", 2)]
    for one in done:
        job = Job.model_validate_json(one.job_json.read_text())
        write_json(one.result_json, {"fingerprint": job.fingerprint, "status": "done"})
    return lab.merging(*done, threads=1)[1]


def a_benchmark(root: Path) -> JobDir:
    """Of an untrained model, which writes 40 tokens in one batch."""
    folder = make_job(root)
    job = json.loads(folder.job_json.read_text())
    said = {"type": "exact_match", "dataset": "first@held_out", "max_new_tokens": 40}
    job |= {"settings": None, "evaluations": {"said": {"benchmark": said, "fingerprint": "f"}}}
    folder.job_json.write_text(json.dumps(job))
    return folder


@pytest.mark.parametrize(
    ("make", "slow_s", "at", "where"),
    [(a_merge, 0.35, "6", "in phase merge"), (a_benchmark, 0.13, "12", "in phase benchmark (said, 0 of ")],
)
def test_a_suspended_worker_is_ended_and_a_slow_one_is_not(
    tmp_path: Path, make: Callable[[Path], JobDir], slow_s: float, at: str, where: str
) -> None:
    folder = make(tmp_path)
    code, events = carried_out(folder, {"SLOW_S": str(slow_s), "SUSPENDED_AT": at})
    (failed,) = [event for event in events if event["event"] == "job_failed"]
    assert code == 0 and failed["kind"] == "hang", failed
    assert "rank 0 gave no sign of life for " in failed["message"] and where in failed["message"]
    stacks = folder.rank_log(0).read_text()
    assert "most recent call first" in stacks and "slow_work.py" in stacks
    (started, again) = [event for event in events if event["event"] == "job_started"]
    assert again["attempt"] == 2 and not psutil.pid_exists(started["pid"])

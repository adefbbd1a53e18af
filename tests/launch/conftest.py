"""A small study of fake jobs: `base` → `adapt` → `merge`, and `other` on its own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir

LAUNCHER = Path(__file__).with_name("fake_launcher.py")
KILL_POINTS = Path(__file__).parents[1] / "lab" / "killpoints"
ARCHITECTURE = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
BENCHMARK = {"benchmark": {"type": "exact_match", "dataset": "d"}, "fingerprint": "f" * 64}


def make_job(stage: str, *parents: Job, seed: int = 1, scored: bool = False) -> Job:
    fingerprint = hashlib.sha256(f"{stage}/{seed}/{[parent.id for parent in parents]}".encode()).hexdigest()
    return Job(
        id=f"{stage}-{fingerprint[:12]}",
        stage=stage,
        fingerprint=fingerprint,
        seed=seed,
        variants=("v",),
        parents=tuple(parent.id for parent in parents),
        model=ARCHITECTURE,
        settings=None,
        evaluations={"b": BENCHMARK} if scored else {},
    )


class FakeStudy:
    """A results folder and launchers of it."""

    def __init__(self, root: Path, jobs: list[Job]) -> None:
        self.dir = StudyDir(root)
        self.jobs = jobs
        self.processes: list[subprocess.Popen[str]] = []
        (root.parent / f"{root.name}-jobs.json").write_text(json.dumps([job.model_dump(mode="json") for job in jobs]))

    def behave(self, **by_stage: dict[str, Any]) -> None:
        self.dir.root.mkdir(parents=True, exist_ok=True)
        (self.dir.root / "behaviour.json").write_text(json.dumps(by_stage))

    def launch(self, *, env: dict[str, str] | None = None, **resources: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(LAUNCHER), str(self.dir.root), json.dumps({"slots": 2, **resources})]
        process = subprocess.Popen(
            command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.processes.append(process)
        return process

    def run(self, *, env: dict[str, str] | None = None, **resources: Any) -> tuple[int, str]:
        process = self.launch(env=env, **resources)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def folder(self, stage: str) -> JobDir:
        return next(self.dir.job(job.id) for job in self.jobs if job.stage == stage)

    def starts(self, stage: str) -> int:
        folder = self.folder(stage).root / "starts"
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def steps(self, stage: str) -> list[int]:
        return [int(line) for line in (self.folder(stage).root / "steps.txt").read_text().split()]

    def values(self) -> dict[str, str]:
        return {job.stage: (read_json(self.dir.job(job.id).result_json) or {}).get("value", "") for job in self.jobs}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.dir.events) if event["event"] == name]

    def kill_everything(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for job in self.jobs:
            pid = (read_json(self.dir.job(job.id).progress_json) or {}).get("pid")
            command = Path(f"/proc/{pid}/cmdline")
            if pid and command.exists() and b"fake_worker" in command.read_bytes():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[FakeStudy]:
    base = make_job("base")
    adapt = make_job("adapt", base)
    made = FakeStudy(tmp_path / "s", [base, make_job("other", scored=True), adapt, make_job("merge", adapt, scored=True)])
    yield made
    made.kill_everything()


@pytest.fixture
def until() -> Callable[..., None]:
    def wait(true: Callable[[], object], what: str = "it") -> None:
        give_up = time.monotonic() + 30
        while not true():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.02)

    return wait

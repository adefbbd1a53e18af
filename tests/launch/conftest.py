"""A small study of fake jobs: `base` → `adapt` → `merge`, and `other` on its own."""

import contextlib
import hashlib
import importlib.util
import io
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
from tunestudy.config.resources import Resources
from tunestudy.records.atomic import read_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir

LAUNCHER = Path(__file__).with_name("fake_launcher.py")
_spec = importlib.util.spec_from_file_location("fake_launcher", LAUNCHER)
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
launch = _module.launch
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
        self.keep(*(job.stage for job in jobs))

    def keep(self, *stages: str) -> None:
        """Make the study smaller: these stages alone."""
        self.jobs = [job for job in self.jobs if job.stage in stages]
        file = self.dir.root.with_name(f"{self.dir.root.name}-jobs.json")
        file.write_text(json.dumps([job.model_dump(mode="json") for job in self.jobs]))

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

    def run(self, **resources: Any) -> tuple[int, str]:
        """In this process: exit code and output."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = launch(self.dir.root, self.jobs, Resources(**{"slots": 2, **resources}))
        return code, output.getvalue()

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
def fresh_study(tmp_path: Path) -> Iterator[Callable[[str], FakeStudy]]:
    made: list[FakeStudy] = []

    def make(name: str) -> FakeStudy:
        base = make_job("base")
        adapt = make_job("adapt", base)
        jobs = [base, make_job("other", scored=True), adapt, make_job("merge", adapt, scored=True)]
        made.append(FakeStudy(tmp_path / name, jobs))
        return made[-1]

    yield make
    for study in made:
        study.kill_everything()


@pytest.fixture
def study(fresh_study: Callable[[str], FakeStudy]) -> FakeStudy:
    return fresh_study("s")


@pytest.fixture
def until() -> Callable[..., None]:
    def wait(true: Callable[[], object], what: str = "it") -> None:
        give_up = time.monotonic() + 30
        while not true():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.02)

    return wait

"""A study for SLURM, whichever one answers, and a SLURM of files."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_study import OnSlurm

from tunestudy.launch.slurm import commands

FAKE = Path(__file__).with_name("fake_slurm.py")


@pytest.fixture
def on_slurm(tmp_path: Path) -> Callable[..., OnSlurm]:
    return lambda name="s", *, seeds=(1,), **settings: OnSlurm(tmp_path / name, seeds=list(seeds), **settings)


class FakeSlurm:
    def __init__(self, home: Path) -> None:
        self.home = home
        for program in ("sbatch", "squeue", "scancel", "sinfo", "scontrol"):
            script = home / program
            script.write_text(f'#!/bin/bash\nexec -a "$0" {sys.executable} -S {home}/links/{program} "$@"\n')
            script.chmod(0o755)
            (home / "links").mkdir(exist_ok=True)
            (home / "links" / program).symlink_to(FAKE)

    @property
    def queue(self) -> dict[str, dict[str, str]]:
        file = self.home / "queue.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def change(self, number: str, **facts: str) -> None:
        queue = self.queue
        queue[number] |= facts
        (self.home / "queue.json").write_text(json.dumps(queue))

    def fail(self, program: str, said: str, times: int = 1) -> None:
        (self.home / f"fail-{program}").write_text(f"{times}\n{said}")

    def forget(self, number: str) -> None:
        (self.home / "queue.json").write_text(json.dumps({k: v for k, v in self.queue.items() if k != number}))

    def calls(self, program: str) -> list[str]:
        return [line for line in (self.home / "calls.txt").read_text().splitlines() if line.startswith(program)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    home = tmp_path / "bin"
    home.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(commands, "BACK_OFF_S", (0.0, 0.0))
    return FakeSlurm(home)

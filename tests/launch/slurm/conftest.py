"""A study for SLURM, whichever one answers; a SLURM of files, and a real one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shell import succeed
from slurm import Cluster, slurm
from slurm_study import OnSlurm

from tunestudy.launch.slurm import commands, follow

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


@pytest.fixture(scope="module")
def real_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of its own for every module, with what its NODES says: `{"nodes": 2, "gpus": 2}`."""
    with slurm(tmp_path_factory.mktemp("cluster") / "slurm", **request.module.NODES) as found:
        yield found


@pytest.fixture
def this_cluster(real_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The one that commands mean meanwhile; looked at often, and empty afterwards."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, real_cluster[name])
    monkeypatch.setattr(follow, "LAST_POLL_S", 1.0)
    yield real_cluster
    end_all()


def end_all() -> None:
    """Cancel what a test left in the queue and wait for free nodes, so that its failure is not the next one's."""
    subprocess.run(["scancel", "--quiet", "--user=root"], check=False)
    give_up = time.monotonic() + 90
    while set((states := _states()).values()) != {"idle"}:
        assert time.monotonic() < give_up, states
        for node, state in states.items():
            if state.startswith(("down", "drain")):
                subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)
        time.sleep(0.3)


def _states() -> dict[str, str]:
    lines = succeed(["sinfo", "-h", "-N", "-p", "lab", "-o", "%N %T"]).splitlines()
    return dict(line.split() for line in lines)

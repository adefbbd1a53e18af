"""One job on the nodes of an allocation of a real SLURM, started by srun."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shell import succeed
from slurm import slurm
from spread_study import job_of, wait_for_step, written

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources
from tunestudy.preflight.hosts import hosts_of

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("cluster") / "slurm", nodes=2) as environment:
        yield {**environment, "OMP_NUM_THREADS": "1"}


def study_in(folder: Path, *, steps: int) -> Path:
    written(folder, steps=steps)
    text = (folder / "study.yaml").read_text()
    here = "launcher: srun, ranks: 2, rendezvous_address: 127.0.0.1"  # both nodes are this machine
    (folder / "study.yaml").write_text(text.replace("hostfile: hosts.txt", here))
    return folder


def allocated(cluster: dict[str, str], folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = ["salloc", "--quiet", "--nodes=2", sys.executable, "-m", "tunestudy.cli", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=cluster, cwd=folder, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def workers(folder: Path) -> list[psutil.Process]:
    return [
        one
        for one in psutil.process_iter(["cmdline"])
        if "tunestudy.worker" in (one.info["cmdline"] or []) and any(str(folder) in w for w in one.info["cmdline"])
    ]


def test_an_allocation_trains_stops_and_goes_on(cluster: dict[str, str], tmp_path: Path) -> None:
    folder = study_in(tmp_path / "work", steps=200)
    process = allocated(cluster, folder, "run", "study.yaml")
    wait_for_step(folder, 5, process)
    told = succeed(["squeue", "-h", "-s", "-o", "%N"], env=cluster)
    assert {"node1", "node2"} <= set(told.split())
    stop = [sys.executable, "-m", "tunestudy.cli", "stop", "study.yaml"]
    succeed(stop, env=cluster, cwd=folder)
    assert "interrupted" in process.communicate(timeout=120)[0]
    assert process.returncode == Exit.INTERRUPTED
    again = allocated(cluster, folder, "run", "study.yaml")
    output = again.communicate(timeout=240)[0]
    assert again.returncode == 0, output
    result = json.loads((job_of(folder) / "result.json").read_text())
    assert result["world_size"] == 2 and result["resumed_from"] and result["steps"] == 200
    log = (job_of(folder) / "logs" / "launch.log").read_text()
    assert "[node2] " in log or "[node1] " in log


def test_no_rank_outlives_its_launcher(cluster: dict[str, str], tmp_path: Path) -> None:
    folder = study_in(tmp_path / "work", steps=100000)
    process = allocated(cluster, folder, "run", "study.yaml")
    wait_for_step(folder, 5, process)
    assert len(workers(folder)) >= 2
    for one in psutil.Process(process.pid).children(recursive=True):
        if any(word in ("tunestudy.cli", "tunestudy.launch.spread") for word in one.cmdline()):
            one.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while workers(folder):
        assert time.monotonic() < end
        time.sleep(0.2)
    process.communicate(timeout=60)


def test_outside_of_an_allocation_it_says_how(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = study_in(tmp_path / "work", steps=5)
    alone = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    command = [sys.executable, "-m", "tunestudy.cli", "run", "study.yaml"]
    told = subprocess.run(command, env=alone, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == Exit.PREFLIGHT_REFUSED
    assert "srun spreads over an allocation, and this is none: salloc" in told.stderr
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, cluster[name])
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    assert [host.slots for host in hosts_of(Resources(launcher="srun", ranks=4), folder)] == [2, 2]
    with pytest.raises(StudyError, match="3 ranks do not divide by the allocation's 2 nodes"):
        hosts_of(Resources(launcher="srun", ranks=3), folder)

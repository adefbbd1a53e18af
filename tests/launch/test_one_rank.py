"""A job of one rank runs without torchrun: its environment, its signals, what is read from its end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunestudy.launch.outcome import read_outcome
from tunestudy.launch.torchrun import TORCHRUN, ask_to_stop, command_here, job_environment, kill, start
from tunestudy.records.host import process_start
from tunestudy.records.layout import JobDir

Until = Callable[..., None]
OF_A_RANK = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_ERROR_FILE": "/elsewhere",
    "PET_NNODES": "2",
}
RANK = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def leave(*_):
    (folder / "asked").touch()
    time.sleep(0.2)
    (folder / "child").write_text("alive" if child.poll() is None else "dead")
    child.kill()
    child.wait()
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
(folder / "told.tmp").write_text(json.dumps({"child": child.pid, "environment": dict(os.environ)}))
os.rename(folder / "told.tmp", folder / "told")
if sys.argv[2:] == ["crash"]:
    child.kill()
    os.kill(os.getpid(), signal.SIGSEGV)
while True:
    time.sleep(0.1)  # a signal that comes just before a long sleep would be heard after it
"""


@pytest.fixture
def one_rank(study: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the script above in the worker's place, as the executor starts the worker."""
    (tmp_path / "rank.py").write_text(RANK)
    started = []

    def launch(folder: JobDir, *words: str) -> subprocess.Popen[bytes]:
        folder.root.mkdir(parents=True, exist_ok=True)
        command = command_here(folder, 1)
        assert command == [sys.executable, "-u", "-m", "tunestudy.worker", str(folder.root)]
        command[2:4] = [str(tmp_path / "rank.py")]
        process = start([*command, *words], job_environment({}, {"OMP_NUM_THREADS": "1"}, 4), folder.launch_log)
        started.append(process)
        return process

    yield launch
    for process in started:
        kill(process.pid)
        process.wait()


def test_several_ranks_have_torchrun(study: Any) -> None:
    command = command_here(study.folder("base"), 2, "some.module")
    assert command[1:3] == ["-m", TORCHRUN] and "--nproc-per-node=2" in command and "some.module" in command


def test_no_rank_of_the_callers_reaches_the_job(
    study: Any, one_rank: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under another torchrun, or in a job script that set them for its own processes."""
    for name, value in OF_A_RANK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTERS_DEGREE", "kept")
    folder = study.folder("base")
    process = one_rank(folder)
    until((folder.root / "told").exists, "the rank")
    environment = json.loads((folder.root / "told").read_text())["environment"]
    assert not OF_A_RANK.keys() & environment.keys()
    assert environment["MASTERS_DEGREE"] == "kept" and environment["TUNESTUDY_ATTEMPT"] == "4"
    assert os.getsid(process.pid) == process.pid != os.getsid(0), "Ctrl-C in the terminal does not reach it"


def test_the_rank_is_asked_and_not_its_children(study: Any, one_rank: Any, until: Until) -> None:
    folder = study.folder("base")
    process = one_rank(folder)
    until((folder.root / "told").exists, "the rank")
    ask_to_stop(process.pid)
    assert process.wait(60) == 75
    assert (folder.root / "asked").exists() and (folder.root / "child").read_text() == "alive"


def test_kill_leaves_nothing_behind(study: Any, one_rank: Any, until: Until) -> None:
    folder = study.folder("base")
    process = one_rank(folder)
    until((folder.root / "told").exists, "the rank")
    child = json.loads((folder.root / "told").read_text())["child"]
    kill(process.pid)
    assert process.wait(60) == -signal.SIGKILL
    until(lambda: not process_start(child), "the child's end")


def test_the_signal_that_ended_it_is_told(study: Any, one_rank: Any) -> None:
    folder = study.folder("base")
    exit_code = one_rank(folder, "crash").wait(60)
    end = read_outcome(study.jobs[0], folder, attempt=4, exit_code=exit_code, log_start={}, out_of_memory=False)
    assert (end.kind, end.signal) == ("killed", signal.SIGSEGV)


def test_one_rank_opens_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_A_RANK:
        monkeypatch.delenv(name, raising=False)
    from torch import distributed

    from tunestudy.train.world import open_world

    with open_world() as world:
        assert (world.rank, world.size, world.local_size) == (0, 1, 1)
        assert not distributed.is_initialized()

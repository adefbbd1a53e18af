"""Real torchrun around a worker that needs no model: ports, signals, exit codes."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tunestudy.launch.outcome import read_outcome
from tunestudy.launch.torchrun import ask_to_stop, job_environment, kill, start, torchrun_command
from tunestudy.records.host import process_start

pytestmark = [pytest.mark.slow, pytest.mark.alone]

RANK = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
rank = os.environ["RANK"]
def leave(*_):
    (folder / f"asked-{rank}").touch()
    time.sleep(0.3)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
(folder / f"rank-{rank}").write_text(f"{os.environ['WORLD_SIZE']} {os.environ['MASTER_PORT']} {os.getpid()}")
what = sys.argv[2]
if what == "sigkill" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
while what != "end":
    time.sleep(0.05)
"""


@pytest.fixture
def torchrun(study, tmp_path: Path):
    """Start torchrun with 2 ranks of the script above in place of the worker."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    started = []

    def launch(what: str, folder):
        folder.root.mkdir(parents=True, exist_ok=True)
        command = torchrun_command(folder, 2)
        place = command.index("tunestudy.worker")
        assert command[place - 1] == "-m"
        command[place - 1 : place + 1] = [str(script)]
        process = start([*command, what], job_environment({}, {"OMP_NUM_THREADS": "1"}, 1), folder.launch_log)
        started.append(process)
        return process

    yield launch
    for process in started:
        kill(process.pid)
        process.wait()


def test_jobs_started_together_do_not_share_a_port(study, torchrun):
    folders = [study.folder(stage) for stage in ("base", "adapt")]
    processes = [torchrun("end", folder) for folder in folders]
    assert [process.wait(120) for process in processes] == [0, 0]
    told = [[(folder.root / f"rank-{rank}").read_text().split() for rank in (0, 1)] for folder in folders]
    ports = [{port for _size, port, _pid in ranks} for ranks in told]
    assert all(len(own) == 1 for own in ports) and ports[0] != ports[1]
    assert {size for ranks in told for size, _port, _pid in ranks} == {"2"}


def test_ranks_are_asked_and_given_time(study, torchrun, until):
    folder = study.folder("base")
    process = torchrun("wait", folder)
    until(lambda: (folder.root / "rank-1").exists() and (folder.root / "rank-0").exists(), "the ranks")
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    ask_to_stop(process.pid)
    process.wait(60)
    assert (folder.root / "asked-0").exists() and (folder.root / "asked-1").exists()


def test_kill_leaves_no_rank_behind(study, torchrun, until):
    folder = study.folder("base")
    process = torchrun("wait", folder)
    told = [folder.root / f"rank-{rank}" for rank in (0, 1)]
    until(lambda: all(file.exists() and file.read_text() for file in told), "the ranks")
    kill(process.pid)
    process.wait(60)
    ranks = [int(file.read_text().split()[2]) for file in told]
    until(lambda: not any(process_start(pid) for pid in ranks), "the ranks' end")


def test_signal_of_a_killed_rank_is_found_in_torchruns_summary(study, torchrun):
    folder = study.folder("base")
    exit_code = torchrun("sigkill", folder).wait(120)
    end = read_outcome(study.jobs[0], folder, attempt=1, exit_code=exit_code, log_start={}, out_of_memory=False)
    assert (end.kind, end.signal) == ("killed", signal.SIGKILL), folder.launch_log.read_text()


def test_command_is_this_python(study):
    assert torchrun_command(study.folder("base"), 1)[0] == sys.executable

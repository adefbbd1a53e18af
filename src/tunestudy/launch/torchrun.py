"""Starting a job on one host, under torchrun when it has several ranks, and reaching its processes afterwards."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tunestudy.config.ranks import is_of_ranks
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact

TORCHRUN = "torch.distributed.run"

_GRACE_S = 10.0
_WOKEN_S = 0.2

Command = Callable[[JobDir, int], list[str]]
"""Job folder, ranks → the command that runs the job."""


def command_here(folder: JobDir, ranks: int, module: str = "tunestudy.worker") -> list[str]:
    """What runs `module` on the folder with `ranks` processes on this host.

    One rank needs nobody to bring it together with others: torchrun would only add seconds of start-up. Its output is
    not buffered, as torchrun has it, so that what a killed process said is in the log.
    """
    if ranks > 1:
        return torchrun_command(folder, ranks, module)
    return [sys.executable, "-u", "-m", module, str(folder.root)]


def torchrun_command(folder: JobDir, ranks: int, module: str = "tunestudy.worker") -> list[str]:
    """torchrun for `ranks` processes on this host, each of which runs `module` on the folder.

    `--standalone` lets the kernel choose the port, so jobs started together cannot collide; the loopback address is
    given because a machine's own name does not always resolve. The executor restarts jobs, torchrun never does.
    """
    torchrun = [sys.executable, "-m", TORCHRUN, "--standalone", "--local-addr=127.0.0.1"]
    return [*torchrun, f"--nproc-per-node={ranks}", "--max-restarts=0", "-m", module, str(folder.root)]


def torchrun_on(
    place: int, hosts: int, *, slots: int, address: str, port: int, module: str, folder: JobDir
) -> list[str]:
    """torchrun of one host of several, number `place` from 0. They meet at a fixed address; nothing is discovered."""
    return [
        *(sys.executable, "-m", TORCHRUN, "--max-restarts=0"),
        f"--nnodes={hosts}",
        f"--node-rank={place}",
        f"--nproc-per-node={slots}",
        f"--master-addr={address}",
        f"--master-port={port}",
        *("-m", module, str(folder.root)),
    ]


def start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, so that neither the terminal's Ctrl-C nor its hang-up reaches it.

    Output goes straight to the file: a pipe would break the job when this process dies.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def job_environment(study_env: Mapping[str, str], slot_env: Mapping[str, str], attempt: int) -> dict[str, str]:
    """This process's environment, the slot's share of the machine, what ranks must know, and the study's `env:`.

    Ranks that this process's own environment speaks of, of another torchrun or a job script, are not passed on.
    """
    ours = {"TOKENIZERS_PARALLELISM": "false", "TUNESTUDY_ATTEMPT": str(attempt)}
    ours["TQDM_DISABLE"] = "1"  # bars that libraries draw are long lines of noise in a log
    if study_env:
        ours["TUNESTUDY_ENV"] = json.dumps(sorted(study_env))  # what other hosts must know, too
    inherited = {name: value for name, value in os.environ.items() if not is_of_ranks(name)}
    return {**inherited, **ours, **slot_env, **study_env}


def ask_to_stop(pid: int) -> None:
    """SIGTERM to the ranks; to torchrun itself only while it has none, as it would kill them 30 s later.

    Ranks on other hosts are told by the process that stands for them here; one rank alone is the process itself.
    """
    ranks = _children(pid, recursive=False) if _is_torchrun(pid) else []
    for process in ranks or _itself(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)


def show_stacks(pid: int) -> None:
    """SIGUSR2 to the ranks, which write their stacks to their logs then; what stands for other hosts passes it on.

    One that is suspended can write nothing, so it is woken for a moment.
    """
    woken: list[psutil.Process] = []
    for process in _children(pid, recursive=False) if _is_torchrun(pid) else _itself(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGUSR2)
            if process.status() == psutil.STATUS_STOPPED:
                process.resume()
                woken.append(process)
    time.sleep(_WOKEN_S if woken else 0.0)
    for process in woken:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()


def kill(pid: int) -> None:
    """SIGKILL to the process and everything below it; torchrun's ranks have sessions of their own, so no group holds
    them all."""
    for process in [*_itself(pid), *_children(pid, recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that answers one question; whatever interrupts the waiting ends it."""
    try:
        return process.wait()
    except BaseException:
        ask_to_stop(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        kill(process.pid)
        raise


def last_line(log: Path) -> str:
    """The error that ended a rank, as far as its log tells: torchrun's own lines come after it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    told = [line for line in lines if "Error" in line and "ChildFailedError" not in line and "torch/" not in line]
    return redact((told or lines or ["it left no message"])[-1].strip()[:300])


def _is_torchrun(pid: int) -> bool:
    """Whether the process runs that module: `python -m torch.distributed.run …`."""
    try:
        return psutil.Process(pid).cmdline()[1:3] == ["-m", TORCHRUN]
    except psutil.NoSuchProcess:
        return False


def _itself(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []


def _children(pid: int, *, recursive: bool) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []

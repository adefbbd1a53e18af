"""One request to the worker plane, carried out on this terminal to its end."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.stop import StopRequest

POLL_S = 0.1


def refuse_without(command: str, needed: Mapping[str, str]) -> None:
    """StudyError where a module is not installed; `needed`: its package by the module's name."""
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        told = f"`{command}` needs {', '.join(missing)}, not installed here; pip install 'tunestudy[train]'"
        raise StudyError("installation", told, exit_code=Exit.PREFLIGHT_REFUSED)


@contextlib.contextmanager
def one_at_a_time(study: StudyDir, command: str, key: str = "") -> Iterator[None]:
    """StudyError while another process does the same: both would write to one folder, and measure each other."""
    try:
        lease = Lease.acquire(study.leases / "-".join(filter(None, (command, key))))
    except LeaseHeldError as held:
        told = f"{held.holder} does the same just now; wait for it to end"
        raise StudyError(command, told, exit_code=Exit.PREFLIGHT_REFUSED) from None
    with lease:
        yield


def by_worker(
    command: str, module: str, folder: Path, request: Mapping[str, Any], environment: Mapping[str, str]
) -> Exit:
    """Have a module of the worker plane carry out what a command was asked for; the request lies in `folder`
    meanwhile. Raises StudyError."""
    file = folder / f"request-{command}-{os.getpid()}.json"
    try:
        write_json(file, request)
        return carried_out(command, module, file, environment)
    except OSError as error:
        cause = f"cannot be written: {error.strerror}; choose another folder with --results"
        raise StudyError(str(folder), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def carried_out(command: str, module: str, request: Path, environment: Mapping[str, str]) -> Exit:
    """Run the worker on this terminal to its end, and pass a wish to stop on to it."""
    stop = StopRequest.on_signals(signal.SIGINT, signal.SIGTERM)
    words = [sys.executable, "-m", module, str(request)]
    worker = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0, env=dict(environment))
    told = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = worker.wait(POLL_S)
            break
        if stop and not told:
            worker.send_signal(signal.SIGINT)
            told = True
    try:
        return Exit(code)
    except ValueError:
        cause = f"the worker ended with code {code}; what is whole is kept, run the same again"
        raise StudyError(command, cause, exit_code=Exit.JOBS_FAILED) from None

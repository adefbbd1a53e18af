"""Starting a tiny job under torchrun with several ranks, and waiting for it to get somewhere.

A fresh process spends ten times longer on its imports than on a tiny job. `start` therefore forks its ranks from a
process of the standard library's fork server that has imported everything once; torchrun's own agent watches over
them. Whoever asks about start-up itself, command lines or the death of torchrun takes `start_afresh`.
"""

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from tunestudy.launch.torchrun import torchrun_command
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

IMPORTED_ONCE = [
    "__main__",
    "peft",
    "torch.distributed.run",
    "transformers.models.glm4_moe.modeling_glm4_moe",
    "transformers.models.qwen3.modeling_qwen3",
    "tunestudy.bench.run",
    "tunestudy.train.lr_find",
    "tunestudy.train.stage",
    "tunestudy.worker",
]
"""What each rank of a tiny job would import; none of it starts a thread, which would not survive the fork."""


class Started(Protocol):
    """What tests ask of a started job."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...


class Forked:
    """torchrun's agent in a process of the fork server, with ranks forked from it, seen like a Popen."""

    def __init__(self, folder: JobDir, ranks: int, module: str, step_s: float) -> None:
        assert os.environ.get("OMP_NUM_THREADS") == "1", "the fork server has this process's environment"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED_ONCE)
        self._process = context.Process(target=_agent, args=(str(folder.root), ranks, module, step_s))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit status; TimeoutExpired when it does not end in time."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked ranks", timeout)
        return self._process.exitcode


def start(folder: JobDir, ranks: int = 2, module: str = "tunestudy.worker", step_s: float = 0.0) -> Forked:
    """Ranks of a job, each of which begins at `module`'s `main`.

    A stop that is meant for the middle of a tiny job comes after its end on a fast machine: `step_s` makes every step
    last that much longer.
    """
    return Forked(folder, ranks, module, step_s)


def start_afresh(folder: JobDir, ranks: int = 2) -> subprocess.Popen[bytes]:
    """The command that the executor runs: torchrun and its ranks import everything anew."""
    return subprocess.Popen(torchrun_command(folder, ranks), env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def _agent(root: str, ranks: int, module: str, step_s: float) -> None:
    """What `torchrun --standalone --max-restarts=0` does, with forked ranks."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        start_method="fork",
    )
    try:
        elastic_launch(config, _rank)(root, module, step_s)
    except ChildFailedError as error:
        sys.exit(str(error))


def _rank(root: str, module: str, step_s: float) -> None:
    if step_s:
        StopRequest.__bool__ = _asked_after(step_s, StopRequest.__bool__)  # type: ignore[method-assign]
    if code := importlib.import_module(module).main(root):
        sys.exit(code)


def _asked_after(step_s: float, asked: Callable[[StopRequest], bool]) -> Callable[[StopRequest], bool]:
    """A run asks once in every step whether it should stop: here it sleeps before it does."""

    def slowly(request: StopRequest) -> bool:
        time.sleep(step_s)
        return asked(request)

    return slowly


def wait_for_step(folder: JobDir, process: Started, step: int) -> None:
    """Until the job has taken `step` steps in this attempt, or is over."""
    while process.poll() is None:
        told = json.loads(folder.progress_json.read_text()) if folder.progress_json.is_file() else {}
        if told.get("phase") in ("train", "evaluate", "save") and (told.get("step") or 0) >= step:
            return
        time.sleep(0.05)

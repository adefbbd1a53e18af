"""Starting the processes that feed trackers, and taking leave of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.config.trackers import TRACKERS, Tracker
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir
from tunestudy.records.stop import StopRequest

_LOOK_S = 0.05
MODULE = "tunestudy.launch.trackers.sink"


class Sinks:
    """One process per tracker that jobs report to and that is not up to date. They end with this process."""

    def __init__(
        self,
        study: Study,
        jobs: Sequence[Job],
        folder: StudyDir,
        *,
        patience_s: float | None = None,
        module: str = MODULE,
    ) -> None:
        """`patience_s`: in place of the study's. `module` tells one tracker (tests replace it)."""
        self._patience_s = study.trackers.patience_s if patience_s is None else patience_s
        self._folder = folder
        self.processes: dict[Tracker, subprocess.Popen[bytes]] = {}
        for tracker in TRACKERS:
            wanted = [job.id for job in jobs if _wants(job, tracker, folder)]
            if wanted:
                wish = {"jobs": wanted, "settings": study.trackers.model_dump(mode="json")}
                self.processes[tracker] = _start(tracker, folder, wish, study.env, module)

    def close(self) -> list[str]:
        """Wait until all is told, no longer than patience lasts or until a signal comes; what was left, in words."""
        hurry = StopRequest.on_signals(signal.SIGINT, signal.SIGTERM) if self.processes else None
        give_up = time.monotonic() + self._patience_s
        for process in self.processes.values():
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        while any(process.poll() is None for process in self.processes.values()):
            if hurry or time.monotonic() > give_up:
                break
            time.sleep(_LOOK_S)
        when = "before the signal to leave" if hurry else f"within {self._patience_s:g} s"
        return [words for tracker in self.processes if (words := self._end(tracker, when))]

    def _end(self, tracker: Tracker, when: str) -> str:
        process, log = self.processes[tracker], self._folder.tracker_log(tracker)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"{tracker} did not take everything {when}; `tunestudy sync` sends the rest"
        if process.returncode:
            return f"{tracker} did not take everything, see {log}; `tunestudy sync` sends the rest"
        return ""


def _wants(job: Job, tracker: Tracker, folder: StudyDir) -> bool:
    if job.training is None or tracker not in job.training.report_to:
        return False
    return not read_object(folder.job(job.id).tracker_state(tracker)).get("finished")


def _start(
    tracker: Tracker, folder: StudyDir, wish: Mapping[str, object], env: Mapping[str, str], module: str
) -> subprocess.Popen[bytes]:
    """A session of its own: Ctrl-C at the terminal is for the launcher, which takes leave in its own time."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, tracker, str(folder.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(wish).encode() + b"\n")
        process.stdin.flush()
    return process

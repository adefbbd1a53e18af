"""One host's part of a job that is spread over several: torchrun, for as long as the connection holds.

The first line of stdin says what to start, a later one asks to stop, the others are signs of life. The end of stdin, or
its silence, means that the launcher is gone, cut off, or does not want this any more: every process is killed, whatever
it is doing.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tunestudy.launch.torchrun import ask_to_stop, command_here, show_stacks, torchrun_on
from tunestudy.records.layout import JobDir

POLL_S = 0.2
BEAT_S = 5.0
"""Between signs of life from the launcher."""
SILENCE_S = 40.0
"""Without any, the network is taken to be cut: nobody could stop these ranks, or would ever hear from them."""


def main() -> int:
    """Exit code of torchrun; 128 and the signal where one ended it, as shells count."""
    meeting: dict[str, Any] = json.loads(sys.stdin.readline())
    process = subprocess.Popen(
        command_of(meeting),
        env=devices_dealt({**os.environ, **meeting["environment"]}),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    silence_s = float(meeting["environment"].get("TUNESTUDY_SILENCE_S", SILENCE_S))
    kept = Family(process.pid)
    launcher = Launcher(process.pid, kept)
    while process.poll() is None:
        kept.look()
        if launcher.silent_s > silence_s:
            print(f"ended: nothing was heard from the launcher for {silence_s:.0f} s", file=sys.stderr, flush=True)
            kept.kill()
        time.sleep(POLL_S)
    kept.kill()  # ranks that outlived a torchrun that was killed
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def command_of(meeting: dict[str, Any]) -> list[str]:
    """What runs the job here: its part on this host, or all of it where it has no other."""
    folder = JobDir(Path(meeting["folder"]))
    if meeting["hosts"] == 1:  # nobody to meet: several such jobs on a host share no port
        return command_here(folder, meeting["slots"], meeting["module"])
    return torchrun_on(
        meeting["place"],
        meeting["hosts"],
        slots=meeting["slots"],
        address=meeting["address"],
        port=meeting["port"],
        module=meeting["module"],
        folder=folder,
    )


def devices_dealt(environment: dict[str, str]) -> dict[str, str]:
    """With TUNESTUDY_DEVICES, places among the GPUs that this host shows: only those are shown to the job. A host that
    says nothing of its GPUs shows all."""
    dealt = [int(place) for place in environment.pop("TUNESTUDY_DEVICES", "").split(",") if place]
    said = environment.get("CUDA_VISIBLE_DEVICES")
    shown = [name for name in (said or "").split(",") if name]
    if dealt and (shown or said is None):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(shown[place] if shown else str(place) for place in dealt)
    return environment


class Launcher:
    """The other end of stdin: its wish to stop is passed on; when it is gone, everything is killed."""

    def __init__(self, torchrun: int, kept: "Family") -> None:
        self._torchrun = torchrun
        self._kept = kept
        self._heard = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def silent_s(self) -> float:
        """Seconds since its last word."""
        return time.monotonic() - self._heard

    def _listen(self) -> None:
        for line in sys.stdin:
            self._heard = time.monotonic()
            told = json.loads(line) if line.strip() else {}
            if told.get("stop"):
                ask_to_stop(self._torchrun)
            if told.get("stacks"):
                show_stacks(self._torchrun)
        self._kept.look()
        self._kept.kill()


class Family:
    """torchrun and its ranks, remembered while they can be found: ranks have sessions and, once alone, no parent."""

    def __init__(self, pid: int) -> None:
        self._known: set[psutil.Process] = set()
        self._pid = pid

    def look(self) -> None:
        try:
            parent = psutil.Process(self._pid)
            self._known |= {parent, *parent.children(recursive=True)}
        except psutil.NoSuchProcess:
            return

    def kill(self) -> None:
        """SIGKILL to all that are left."""
        for process in self._known:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


if __name__ == "__main__":
    sys.exit(main())

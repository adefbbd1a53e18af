"""One host's part of a job that is spread over several: torchrun, for as long as the connection holds.

The first line of stdin says what to start, a later one asks to stop. The end of stdin means that the launcher is gone,
or does not want this any more: every process is killed, whatever it is doing.
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

from tunestudy.launch.torchrun import ask_to_stop, torchrun_on
from tunestudy.records.layout import JobDir

POLL_S = 0.2


def main() -> int:
    """Exit code of torchrun; 128 and the signal where one ended it, as shells count."""
    meeting: dict[str, Any] = json.loads(sys.stdin.readline())
    process = subprocess.Popen(
        torchrun_on(
            meeting["place"],
            meeting["hosts"],
            slots=meeting["slots"],
            address=meeting["address"],
            port=meeting["port"],
            module=meeting["module"],
            folder=JobDir(Path(meeting["folder"])),
        ),
        env={**os.environ, **meeting["environment"]},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    kept = Family(process.pid)
    threading.Thread(target=listen, args=(process, kept), daemon=True).start()
    while process.poll() is None:
        kept.look()
        time.sleep(POLL_S)
    kept.kill()  # ranks that outlived a torchrun that was killed
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def listen(process: "subprocess.Popen[bytes]", kept: "Family") -> None:
    """Pass on a wish to stop; kill everything when nobody is there any more."""
    for line in sys.stdin:
        if line.strip() and json.loads(line).get("stop"):
            ask_to_stop(process.pid)
    kept.look()
    kept.kill()


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

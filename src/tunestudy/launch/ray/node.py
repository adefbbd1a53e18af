"""A job's keeper on one machine of a Ray cluster: an actor whose child is `launch.on_host`.

The child ends the job's processes when this actor goes, so Ray's own care is enough: it ends actors whose driver is
gone, and those of a machine that the cluster has lost sight of.
"""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tunestudy.launch.on_host import BEAT_S
from tunestudy.records.layout import JobDir

LISTEN_S = 1.0
"""An answer to `listen` comes after this long at the latest."""
_NO_CHILD_OF_MINE = ("sh", "-c", '"$0" "$@"; exit $?')
"""Ray kills the children and the process group of an actor that ends. `launch.on_host` must live to end the ranks, so
it is a grandchild in a session of its own."""
_LINES = 1000
"""Of output in one answer."""


class Keeper:
    """Holds one bundle of a placement group; the first one on a machine starts what runs there.

    The environment comes with `begin`, not when the actor is made: what Ray makes actors with is kept and shown by its
    head, and there may be tokens in it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader: threading.Thread | None = None
        self._writing = threading.Lock()

    def where(self) -> dict[str, Any]:
        """node (Ray's id), host (its name), address, gpus (as Ray deals them out), port (free at the moment)."""
        import ray

        context = ray.get_runtime_context()
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return {
            "node": context.get_node_id(),
            "host": socket.gethostname(),
            "address": ray.util.get_node_ip_address(),
            "gpus": [str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])],
            "port": port,
        }

    def begin(self, meeting: dict[str, Any]) -> str | None:
        """Start this machine's part of a job (see `launch.on_host`); why that cannot be, or None."""
        folder = JobDir(Path(meeting["folder"]))
        if not folder.job_json.is_file():
            return f"does not see {folder.root}; all machines must see the results under the same path"
        self._process = subprocess.Popen(
            [*_NO_CHILD_OF_MINE, sys.executable, "-u", "-m", "tunestudy.launch.on_host"],
            env={**os.environ, **meeting["environment"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._say(meeting)
        threading.Thread(target=self._beat, daemon=True).start()
        return None

    def listen(self) -> tuple[list[str], int | None]:
        """New lines of output, and the exit code once everything has been said. Waits for news a moment."""
        assert self._process is not None and self._reader is not None, "begin comes first"
        give_up = time.monotonic() + LISTEN_S
        while True:
            code = self._process.poll()
            if code is not None:
                self._reader.join(timeout=LISTEN_S)  # a rank that was left behind may keep it open
            lines = self._said()
            if code is not None or lines or time.monotonic() > give_up:
                return lines, code if len(lines) < _LINES else None
            time.sleep(0.02)

    def ask_to_stop(self) -> None:
        """Let the ranks here save and leave."""
        self._say({"stop": True})

    def show_stacks(self) -> None:
        """Let its ranks write to their logs where they are."""
        self._say({"stacks": True})

    def _said(self) -> list[str]:
        lines: list[str] = []
        while len(lines) < _LINES and not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.decode(errors="replace").rstrip())

    def _beat(self) -> None:
        assert self._process is not None
        while self._process.poll() is None:
            self._say({"alive": True})
            time.sleep(BEAT_S)

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with self._writing:
            try:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                return  # it has ended; `listen` tells how

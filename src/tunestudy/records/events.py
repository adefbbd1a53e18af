"""Append-only journal: one file per writer, one JSON object per line, so two writers never meet in a file."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tunestudy.records.redact import redact


class Journal:
    """Appends events to `<folder>/<writer>.jsonl`, each durable before `write` returns.

    `writer` must be unique (host, pid, start time); use as a context manager or `close()` it.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = writer
        self._file = open(folder / f"{writer}.jsonl", "ab")  # noqa: SIM115 - closed by close()

    def write(self, event: str, **facts: Any) -> None:
        """Append `{"t": <unix seconds>, "event": event, …}`; texts are redacted."""
        line = json.dumps({"t": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False, allow_nan=False)
        sys.audit("tunestudy.append", self._file.name)
        self._file.write(redact(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of all writers by time, each with its `writer`; a torn last line is left out."""
    events = [event for path in sorted(folder.glob("*.jsonl")) for event in _events_in(path)]
    return sorted(events, key=lambda event: event["t"])


def _events_in(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the writer was killed inside this line
        yield {**event, "writer": path.stem}

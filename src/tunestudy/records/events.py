"""Append-only journal: one file per writer, one JSON object per line, so two writers never meet in a file."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tunestudy.records import clock
from tunestudy.records.appended import AppendedFile
from tunestudy.records.redact import redact
from tunestudy.records.space import NoSpaceError

CLOCK_DIFFERS = "clock_differs"
LOOK_S = 1.0
"""Between two looks whether a journal is still there."""


class Journal:
    """Appends events to `<folder>/<writer>.jsonl`, each durable before `write` returns.

    Times are those of the file server, so that events of several machines can be sorted and subtracted, and none is
    earlier than the one before; a machine whose own clock differs says so first (`clock_differs`). `writer` must be
    unique (host, pid, start time); use as a context manager or `close()` it.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = writer
        self._folder = folder
        self._path = folder / f"{writer}.jsonl"
        self._file = AppendedFile(self._path)
        self._next_look = 0.0
        self.lost = False
        """Whether `look` has found it gone."""
        self._late: list[bytes] = []
        self._last_t = 0.0
        self.clock_ahead_s = clock.ahead_s(folder)
        """By how much this machine's clock is ahead of the file server's; 0 where they agree."""
        if self.clock_ahead_s:
            self.write(CLOCK_DIFFERS, ahead_s=round(self.clock_ahead_s, 1))

    def write(self, event: str, **facts: Any) -> None:
        """Append `{"t": <unix seconds>, "event": event, …}`; texts are redacted.

        On a full disk events wait in memory, and are written before the next one that finds room: no decision hangs on
        them, and a launcher that waits for room must not end for want of it.
        """
        t = self._last_t = max(self._last_t, round(clock.now(self._folder), 3))
        line = json.dumps({"t": t, "event": event, **facts}, ensure_ascii=False, allow_nan=False)
        self._late.append(redact(line).encode() + b"\n")
        try:
            self._write_late()
        except NoSpaceError as error:
            if len(self._late) <= 1:
                print(f"warning: {error}; written when there is room", file=sys.stderr, flush=True)

    def look(self, *, at_once: bool = False) -> bool:
        """Whether the file is still where it was made; asks once a second at most, or `at_once`.

        It is not where the results were moved or deleted, although jobs make their folders anew by the same names. The
        number of a folder would tell less: some file systems give it another one at any time.
        """
        if not self.lost and (at_once or time.monotonic() >= self._next_look):
            if not self._is_there():
                time.sleep(LOOK_S)  # what is moved and linked to is there again by then
                self.lost = not self._is_there()
            self._next_look = time.monotonic() + LOOK_S
        return not self.lost

    def _is_there(self) -> bool:
        try:
            self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # a file server that is away says nothing of it
        return True

    def _write_late(self) -> None:
        if not self._late:
            return
        self._file.append(b"".join(self._late))
        self._late = []
        self._file.sync()

    def close(self) -> None:
        """Write what waited for room. What finds none now either is lost, and told."""
        try:
            self._write_late()
        except NoSpaceError as error:
            print(f"warning: {error}; events that are lost: {len(self._late)}", file=sys.stderr, flush=True)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def differing_clocks(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Writer → by how many seconds its machine's clock was ahead of the file server's, of those that differed."""
    found = (event for event in events if event["event"] == CLOCK_DIFFERS)
    return {
        event["writer"]: float(event["ahead_s"]) for event in found if isinstance(event.get("ahead_s"), int | float)
    }


def last_signs(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """When an attempt at a job was last seen alive, by job and attempt, of those that another one followed."""
    begun = (event for event in events if event["event"] == "job_started" and isinstance(event.get("left"), dict))
    found = ((str(event.get("job")), event["left"].get("attempt"), event["left"].get("t")) for event in begun)
    return {(job, attempt): t for job, attempt, t in found if isinstance(attempt, int) and isinstance(t, int | float)}


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of all writers by time, each with its `writer`; a torn last line is left out, and what is no event."""
    events = [event for path in sorted(folder.glob("*.jsonl")) for event in _events_in(path)]
    return sorted(events, key=lambda event: event["t"])


def _events_in(path: Path) -> list[dict[str, Any]]:
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
    except IsADirectoryError:
        return []
    found, writer = [event for event in _parsed(lines) if _is_event(event)], path.stem
    for event in found:
        event["writer"] = writer
    return found


def _parsed(lines: list[bytes]) -> list[Any]:
    """In one go, which takes half the time; line by line where one of them is torn."""
    try:
        every: list[Any] = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return [value for line in lines for value in _parsed_line(line)]
    return every


def _parsed_line(line: bytes) -> Iterator[Any]:
    try:
        yield json.loads(line)
    except ValueError:
        return  # the writer was killed inside this line


def _is_event(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("event"), str) and isinstance(value.get("t"), int | float)

"""A process's own log file, free of tokens."""

import io
import os
import sys
from pathlib import Path

from tunestudy.records.atomic import write_bytes
from tunestudy.records.redact import redact


class RedactedStream(io.TextIOBase):
    """A text stream that holds back the line being written and lets only redacted lines through."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._line = ""

    def write(self, text: str) -> int:
        self._line += text
        end = max(self._line.rfind("\n"), self._line.rfind("\r")) + 1
        ready, self._line = self._line[:end], self._line[end:]
        if ready:
            os.write(self._descriptor, redact(ready).encode())
        return len(text)

    def flush(self) -> None:
        """Lines leave when they are whole: half of one could be half a token."""

    def close(self) -> None:
        if self._line:
            self.write("\n")
        super().close()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor


def write_output_to(path: Path) -> None:
    """Append all further output of this process, libraries in C included, to `path`; Python's is redacted at once.

    What C libraries write goes in as it is: call `scrub` when the process is about to end.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout, sys.stderr = RedactedStream(1), RedactedStream(2)


def scrub(path: Path) -> None:
    """Redact a log in place, if there is anything to redact."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, RedactedStream) and stream._line:
            stream.write("\n")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    clean = redact(text)
    if clean != text:
        write_bytes(path, clean.encode())

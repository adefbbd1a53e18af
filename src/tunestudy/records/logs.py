"""A process's own log file, free of tokens."""

import io
import os
import sys
from pathlib import Path

from tunestudy.records.atomic import is_disk_full, write_bytes
from tunestudy.records.redact import redact


class RedactedStream(io.TextIOBase):
    """A text stream that holds back the line being written and lets only redacted lines through."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._line = ""
        self._lost = 0

    def write(self, text: str) -> int:
        self._line += text
        end = max(self._line.rfind("\n"), self._line.rfind("\r")) + 1
        ready, self._line = self._line[:end], self._line[end:]
        if ready:
            self._let_out(redact(ready))
        return len(text)

    def _let_out(self, lines: str) -> None:
        """On a full disk lines are lost, which the next one that finds room tells: what they are about goes on."""
        told = f"({self._lost} lines before this one are lost: the disk was full)\n" if self._lost else ""
        left = (told + lines).encode()
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            self._lost = 0
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._lost += lines.count("\n")

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

"""Reading files that grow: every byte once, whole lines only."""

import re
from pathlib import Path
from typing import BinaryIO

_MARK = 64
"""So many bytes before the place reached are compared, to see that it is still the same file."""
_END = re.compile(rb"[\r\n]")
"""Of a line."""


class Tail:
    """The whole lines of one growing file, each given out once.

    Logs of a job that was resumed are cut back to its checkpoint and written anew; `read` says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0
        self._mark = b""
        self._seen = 0
        self._looked: tuple[int, int, int] | None = None

    def read(self, most: int) -> tuple[bytes, bool]:
        """New whole lines, at most about `most` bytes of them, and whether what was given out before no longer counts.

        A file that is not there (any more) has no lines. A line longer than `most` waits until more is asked for.
        """
        try:
            facts = self.path.stat()
            looked = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if looked == self._looked and facts.st_size == self._at:
                return b"", False
            with open(self.path, "rb") as file:
                again = not self._still_there(file)
                file.seek(self._at)
                data = file.read(most)
        except OSError:
            again = self._at > 0
            self._at, self._mark, self._looked = 0, b"", None
            return b"", again
        self._looked, self._seen = looked, self._at + len(data)
        data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        self._mark = (self._mark + data)[-_MARK:]
        return data, again

    @property
    def left(self) -> int:
        """Bytes that were not looked at yet; a last line without its end was, and is none of them."""
        return max(0, self._looked[1] - self._seen) if self._looked else 0

    def _still_there(self, file: BinaryIO) -> bool:
        """Whether the bytes before our place are those that we read; else we begin anew."""
        if not self._at:
            return True
        file.seek(self._at - len(self._mark))
        if file.read(len(self._mark)) == self._mark:
            return True
        self._at, self._mark = 0, b""
        return False


def last_lines(path: Path, most: int, *, start: int | None = None) -> tuple[str, int]:
    """Whole lines of a text file from byte `start` on, or its end without it; and where to go on.

    At most about `most` bytes; a first line that `most` cuts in half is left out, so that no half of a token gets
    through; a line at `start` that is longer than `most` is passed over once it has an end. A file that became shorter
    than `start` is told from its end. Raises FileNotFoundError.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        begin = start if start is not None and start <= size else max(0, size - most)
        file.seek(begin)
        data = file.read(most)
        if begin == start and len(data) == most and not _END.search(data):
            return "", _next_line(file) or begin
    if begin and begin != start:
        if not (end := _END.search(data)):
            return "", begin  # inside of a line: from there on it is passed over, too
        data, begin = data[end.end() :], begin + end.end()
    ends = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    return data[:ends].decode(errors="replace"), begin + ends


def _next_line(file: BinaryIO) -> int | None:
    """Where the line after the one that `file` stands in begins; None as long as that one has no end."""
    while data := file.read(1 << 20):
        if end := _END.search(data):
            return file.tell() - len(data) + end.end()
    return None

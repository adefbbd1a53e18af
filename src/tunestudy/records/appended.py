"""A file that grows by whole lines: one that finds no room leaves no half of itself behind."""

import contextlib
import os
import sys
from pathlib import Path

from tunestudy.records.space import space


class AppendedFile:
    """Lines reach the file as soon as they are written, or not at all: nothing is held back that `close` could lose."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, lines: bytes) -> None:
        """Whole lines at the file's end. Raises NoSpaceError, and the file is as before."""
        assert self._descriptor is not None, "closed"
        sys.audit("tunestudy.append", str(self._path))
        before, left = os.fstat(self._descriptor).st_size, lines
        with space(f"for a line of {self._path.name}", self._path.parent, len(lines)):
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError:
                with contextlib.suppress(OSError):  # what cannot even be cut is passed over as torn by all who read
                    os.ftruncate(self._descriptor, before)
                raise

    def sync(self) -> None:
        """Make all lines durable. Raises NoSpaceError: some file systems learn only now that there is no room."""
        assert self._descriptor is not None, "closed"
        with space(f"for {self._path.name}", self._path.parent):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

"""A thread that looks at the machine now and then while a stage trains."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

from tunestudy.records.space import NoSpaceError
from tunestudy.records.tables import TableLog, Value

Look = Callable[[], Iterable[Mapping[str, Value]]]
"""One look: rows of the table."""


class Sampler:
    """A context in which `look` is called every `interval_s` and at the end; its rows go into a table."""

    def __init__(self, path: Path, columns: tuple[str, ...], look: Look | None, *, interval_s: float) -> None:
        """look: None where there is nothing to see; no file is written then."""
        self._path, self._columns, self._interval_s = path, columns, interval_s
        self._look = look
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._look is not None:
            self._thread = threading.Thread(target=self._until_end, args=(self._look,), name="sampler", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _until_end(self, look: Look) -> None:
        table = TableLog(self._path, self._columns)
        ended = False
        while not ended:
            ended = self._end.wait(self._interval_s)
            for row in look():
                with contextlib.suppress(NoSpaceError):  # what cannot do without the disk tells of it
                    table.append(row)
        table.close()

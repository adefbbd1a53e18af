"""CSV tables that grow: every row once."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tunestudy.records.follow import Tail

_MOST_BYTES = 4 * 2**20


@dataclass
class GrowingTable:
    """One CSV file. After it was cut back (a resumed job) it is read anew from its first row."""

    path: Path
    _tail: Tail = field(init=False)
    _columns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tail = Tail(self.path)

    def read(self) -> Iterator[dict[str, str]]:
        """Whole rows that were added."""
        while True:
            data, again = self._tail.read(_MOST_BYTES)
            if again:
                self._columns = []
            if not data:
                return
            rows = list(csv.reader(data.decode(errors="replace").splitlines()))
            if not self._columns:
                self._columns, rows = rows[0], rows[1:]
            yield from (dict(zip(self._columns, row, strict=True)) for row in rows if len(row) == len(self._columns))

"""Columns of growing CSV logs, thinned as they are read: a million rows cost no more to draw than a thousand."""

import csv
from pathlib import Path

import numpy as np

from tunestudy.records.follow import Tail

KEPT = 1200
"""Groups of rows that a column is thinned to; until it has four times as many it is kept as it is."""


class Series:
    """One column over steps. Rows are grouped when there are many: mean, lowest and highest of each group survive."""

    def __init__(self) -> None:
        self.steps = np.empty(0)
        """Shape (N,): the last step of each group; so are all the others."""
        self.mean = np.empty(0)
        self.low = np.empty(0)
        self.high = np.empty(0)
        self._rows = np.empty(0)

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Append rows, shapes (M,); those without a finite value are left out."""
        known = np.isfinite(values) & np.isfinite(steps)
        steps, values = steps[known], values[known]
        parts = (steps, values, values, values, np.ones(len(steps)))
        self._set(*(np.concatenate(pair) for pair in zip(self._columns(), parts, strict=True)))
        if len(self) > 4 * KEPT:
            self._set(*self.thinned(KEPT))

    def thinned(self, most: int) -> tuple[np.ndarray, ...]:
        """(steps, mean, low, high, rows) of at most `most` groups of neighbours."""
        if len(self) <= most:
            return self._columns()
        starts = np.unique(np.linspace(0, len(self), most, endpoint=False).astype(int))
        rows = np.add.reduceat(self._rows, starts)
        mean = np.add.reduceat(self.mean * self._rows, starts) / rows
        ends = np.append(starts[1:], len(self)) - 1
        return (
            self.steps[ends],
            mean,
            np.minimum.reduceat(self.low, starts),
            np.maximum.reduceat(self.high, starts),
            rows,
        )

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.steps, self.mean, self.low, self.high, self._rows

    def _set(self, *columns: np.ndarray) -> None:
        self.steps, self.mean, self.low, self.high, self._rows = columns


class Log:
    """The wanted columns of one CSV log, read on from where the last reading ended."""

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self._tail = Tail(path)
        self._columns = columns
        self._places: dict[str, int] | None = None
        self.series: dict[str, Series] = {}

    def read(self, most: int) -> int:
        """Take in up to `most` new bytes; returns how many there were."""
        data, again = self._tail.read(most)
        if again:
            self._places, self.series = None, {}
        if not data:
            return 0
        lines = data.decode(errors="replace").splitlines()
        if self._places is None:
            names = next(csv.reader([lines.pop(0)]))
            self._places = {name: place for place, name in enumerate(names)}
        self._take(lines)
        return len(data)

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return self._tail.left

    def _take(self, lines: list[str]) -> None:
        """Rows whose number of fields is not the header's are torn, and left out. No field we read is ever quoted."""
        assert self._places is not None
        width, places = len(self._places), self._places
        rows = [row for line in lines if len(row := line.split(",")) == width]
        if "step" not in places or not rows:
            return
        steps = _numbers([row[places["step"]] for row in rows])
        for name in self._columns:
            if name in places:
                values = _numbers([row[places[name]] for row in rows])
                if np.isfinite(values).any():
                    self.series.setdefault(name, Series()).add(steps, values)


def _numbers(texts: list[str]) -> np.ndarray:
    try:
        return np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return np.array([_number(text) for text in texts])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

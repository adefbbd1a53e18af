"""A job's tables as one record per step, each given out once: in order, never twice, whatever was killed meanwhile.

A job that was killed is cut back to its checkpoint and repeats steps that were told before. An exact resume repeats
their values too, so what was told stays, and repeated rows are passed over.
"""

import csv
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tunestudy.records.follow import Tail
from tunestudy.records.layout import JobDir

Values = dict[str, float]

SETTLED_S = 10.0
"""The newest step waits so long for the rest of its rows, unless a later step is there already."""
_MOST_BYTES = 4 * 2**20
_CLOCKLESS = ("step",)
_BY = {"mole": "module", "gradients": "role"}
"""Tables of several rows a step, by the column that tells them apart."""


@dataclass
class _Table:
    """One growing CSV file."""

    tail: Tail
    columns: list[str] = field(default_factory=list)

    def read(self) -> Iterator[dict[str, str]]:
        while True:
            data, again = self.tail.read(_MOST_BYTES)
            if again:
                self.columns = []
            if not data:
                return
            rows = list(csv.reader(data.decode(errors="replace").splitlines()))
            if not self.columns:
                self.columns, rows = rows[0], rows[1:]
            yield from (dict(zip(self.columns, row, strict=True)) for row in rows if len(row) == len(self.columns))


class JobSteps:
    """The tables of one job. `through`: the last step that was given out before, -1 for none."""

    def __init__(self, folder: JobDir, through: int) -> None:
        self.through = through
        self._tables = {
            "train": _Table(Tail(folder.loss_log)),
            "eval": _Table(Tail(folder.eval_log)),
            "sparsity": _Table(Tail(folder.sparsity_log)),
            "experts": _Table(Tail(folder.expert_log)),
            "mole": _Table(Tail(folder.mole_log)),
            "gradients": _Table(Tail(folder.gradient_log)),
        }
        self._waiting: dict[int, Values] = {}
        self._changed = time.monotonic()

    def ready(self, *, ended: bool) -> list[tuple[int, Values]]:
        """What can be told now, by step. `ended`: nothing writes to the tables for now.

        The newest step is held until it must be whole; of an ended job it is, once its training row is there.
        """
        if self._read():
            self._changed = time.monotonic()
        newest = max(self._waiting, default=-1)
        settled = time.monotonic() - self._changed >= SETTLED_S
        whole = settled or (ended and "train/train_loss" in self._waiting.get(newest, {}))
        steps = [step for step in sorted(self._waiting) if step < newest or whole]
        told = [(step, self._waiting.pop(step)) for step in steps]
        if told:
            self.through = told[-1][0]
        return told

    def _read(self) -> bool:
        """Take in new rows; rows of a step that is waiting replace those that were cut away."""
        found = False
        for prefix, table in self._tables.items():
            for row in table.read():
                step = int(row["step"]) if row.get("step", "").isdigit() else -1
                if step > self.through:
                    self._waiting.setdefault(step, {}).update(_values(prefix, row))
                    found = True
        return found


def _values(prefix: str, row: Mapping[str, str]) -> Values:
    by = _BY.get(prefix)
    place = f"{prefix}/{row[by]}" if by else prefix
    numbers = {name: _number(text) for name, text in row.items() if name not in (*_CLOCKLESS, by)}
    return {f"{place}/{name}": value for name, value in numbers.items() if value is not None}


def _number(text: str) -> float | None:
    """None for an empty field; what is not finite stays what it is."""
    try:
        return float(text)
    except ValueError:
        return None if not text.strip() else math.nan

"""A job's tables as one record per step, each given out once: in order, never twice, whatever was killed meanwhile.

A job that was killed is cut back to its checkpoint and repeats steps that were told before. An exact resume repeats
their values too, so what was told stays, and repeated rows are passed over.
"""

import math
import time
from collections.abc import Mapping

from tunestudy.records.growing import GrowingTable
from tunestudy.records.layout import JobDir

Values = dict[str, float]

SETTLED_S = 10.0
"""The newest step waits so long for the rest of its rows, unless a later step is there already."""
_CLOCKLESS = ("step",)
_BY = {"mole": "module", "gradients": "role"}
"""Tables of several rows a step, by the column that tells them apart."""


class JobSteps:
    """The tables of one job. `through`: the last step that was given out before, -1 for none."""

    def __init__(self, folder: JobDir, through: int) -> None:
        self.through = through
        self._tables = {
            "train": GrowingTable(folder.loss_log),
            "eval": GrowingTable(folder.eval_log),
            "sparsity": GrowingTable(folder.sparsity_log),
            "experts": GrowingTable(folder.expert_log),
            "mole": GrowingTable(folder.mole_log),
            "gradients": GrowingTable(folder.gradient_log),
        }
        self._waiting: dict[int, Values] = {}
        self._changed = time.monotonic()

    def ready(self, *, ended: bool) -> list[tuple[int, Values]]:
        """What can be told now, by step. `ended`: nothing writes to the tables for now.

        The newest step is held until it must be whole; of an ended job it is, once its training row is there (whose
        loss is empty where no token was learnt).
        """
        if self._read():
            self._changed = time.monotonic()
        newest = max(self._waiting, default=-1)
        settled = time.monotonic() - self._changed >= SETTLED_S
        whole = settled or (ended and "train/epoch" in self._waiting.get(newest, {}))
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

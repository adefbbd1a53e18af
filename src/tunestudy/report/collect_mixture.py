"""Reads the log of a mixture of experts: one row per logged step and gated block."""

import csv
import io
from pathlib import Path

import numpy as np

from tunestudy.report.facts import GateLog
from tunestudy.report.reader import Reader
from tunestudy.report.values import number

_FIXED = ["epoch", "step", "module", "entropy", "balance"]
"""Columns that every log begins with; the others are experts."""


def read_gate_log(path: Path, reader: Reader) -> dict[str, GateLog]:
    """By module, in the order of the file; a cell that is no number becomes NaN. Empty when absent or broken."""
    header, rows = reader.guarded(path, _rows, ([], []), clean=False)
    if not rows:
        return {}
    modules = [row[2] for row in rows]
    names = dict.fromkeys(modules)
    clean = dict(zip(names, reader.redact(list(names)), strict=True))
    experts = reader.redact(header[len(_FIXED) :])
    values = np.column_stack([_numbers(column) for at, column in enumerate(zip(*rows, strict=True)) if at != 2])
    places: dict[str, list[int]] = {name: [] for name in names}
    for place, name in enumerate(modules):
        places[name].append(place)
    return {str(clean[name]): _log(values[places[name]], [str(expert) for expert in experts]) for name in names}


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and complete rows; the same rule as `records.tables.read_table`, many times faster on long tables."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], []
    lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    if not lines:
        return [], []
    if lines[0][: len(_FIXED)] != _FIXED:
        raise ValueError(f"it should begin with the columns {', '.join(_FIXED)}")
    return lines[0], [row for row in lines[1:] if len(row) == len(lines[0])]


def _numbers(column: tuple[str, ...]) -> np.ndarray:
    try:
        return np.array(column, dtype=float)
    except ValueError:
        return np.array([np.nan if (value := number(cell)) is None else value for cell in column])


def _log(values: np.ndarray, experts: list[str]) -> GateLog:
    """`values`: shape (rows, columns without `module`). A step that stands twice counts as it stands last."""
    last = {step: place for place, step in enumerate(values[:, 1].tolist()) if np.isfinite(step)}
    kept = values[[last[step] for step in sorted(last)]]
    kept[~np.isfinite(kept)] = np.nan
    _, steps, entropy, balance, *usage = kept.T.tolist() if len(kept) else [[]] * values.shape[1]
    return GateLog(steps=steps, entropy=entropy, balance=balance, usage=dict(zip(experts, usage, strict=True)))

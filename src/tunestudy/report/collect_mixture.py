"""Reads the log of a mixture of experts: one row per logged step and gated block."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from tunestudy.report.curves import thin
from tunestudy.report.facts import GateLog
from tunestudy.report.reader import Reader

_FIXED = ["epoch", "step", "module", "entropy", "balance"]
"""Columns that every log begins with; the others are experts."""
MOST_STEPS = 120

Row = tuple[str, str, str]
"""Step, module, and the other columns as they stand in the file."""


def read_gate_log(path: Path, reader: Reader) -> dict[str, GateLog]:
    """By module, in the order of the file; a cell that is no number becomes NaN. Empty when absent or broken.

    Of a long log at most `MOST_STEPS` steps, evenly spaced, the ends among them: no picture has room for more.
    """
    header, rows = reader.guarded(path, _rows, ([], []), clean=False)
    by_module: dict[str, dict[str, str]] = {}
    for step, module, rest in rows:
        by_module.setdefault(module, {})[step] = rest  # a step that stands twice counts as it stands last
    names = list(by_module)
    experts = [str(name) for name in reader.redact(header[len(_FIXED) :])]
    clean = dict(zip(names, reader.redact(names), strict=True))
    return {str(clean[name]): _log(thin(list(of.items()), MOST_STEPS), experts) for name, of in by_module.items()}


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    """Header and rows of the lines that are complete. Only the columns that tell rows apart are taken out: of a long
    log most rows are never looked at."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], []
    text = text[: text.rfind("\n") + 1]
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    if header and header[: len(_FIXED)] != _FIXED:
        raise ValueError(f"it should begin with the columns {', '.join(_FIXED)}")
    if '"' in text:
        return header, [(row[1], row[2], ",".join(row[3:])) for row in lines if len(row) == len(header)]
    split = [line.split(",", 3) for line in text.splitlines()[1:]]
    return header, [(parts[1], parts[2], parts[3]) for parts in split if len(parts) == 4]


def _log(rows: Sequence[tuple[str, str]], experts: list[str]) -> GateLog:
    """`rows`: step, and what follows the module."""
    wanted = len(_FIXED) - 3 + len(experts)
    told = ((_number(step), rest.split(",")) for step, rest in rows)
    known = sorted((step, [*map(_number, rest)]) for step, rest in told if math.isfinite(step) and len(rest) == wanted)
    columns = list(zip(*(values for _, values in known), strict=True)) or [()] * wanted
    entropy, balance, *usage = map(list, columns)
    steps = [step for step, _ in known]
    return GateLog(steps=steps, entropy=entropy, balance=balance, usage=dict(zip(experts, usage, strict=True)))


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan

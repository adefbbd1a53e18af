"""Geometry of the pictures of mixtures, in SVG units: a grid whose every cell can be asked, and lines over steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tunestudy.report.curves import NUM_COLOURS, thin
from tunestudy.report.format import percent, sig
from tunestudy.report.plots import BOTTOM, HEIGHT, LEFT, LEVELS, RIGHT, TOP, WIDTH, Axis, axis_over, clipped

_ROW = 26.0
_LABEL_WIDTH = 26.0
"""Room that the label of a column needs."""
_MOST_POINTS = 120
_GAP = 1.0


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """A rectangle; `shade` from 0 to `LEVELS`."""

    x: float
    y: float
    width: float
    height: float
    shade: int
    flagged: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Shares by row and column."""

    title: str
    height: float
    cells: list[GridCell]
    row_labels: list[tuple[float, str, str]]
    """(place, label, the name in full)."""
    column_labels: list[tuple[float, str]]
    text: str
    """The same in words."""


def grid(
    title: str, rows: Sequence[str], columns: Sequence[str], values: np.ndarray, *, what: str, least: float = -1.0
) -> Grid:
    """`values`: shape (rows, columns), shares from 0 to 1, NaN where there is none; those below `least` are flagged."""
    wide = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    every = max(1, math.ceil(_LABEL_WIDTH / wide))
    cells = [
        GridCell(
            x=round(LEFT + column * wide, 2),
            y=row * _ROW,
            width=round(wide - min(_GAP, wide / 8), 2),
            height=_ROW - _GAP,
            shade=round(min(1.0, max(0.0, value)) * LEVELS),
            flagged=value < least,
            title=f"{rows[row]}, {what} {columns[column]}: {percent(value)}",
        )
        for row, of in enumerate(values.tolist())
        for column, value in enumerate(of)
        if value == value
    ]
    means = [row[np.isfinite(row)] for row in values]
    told = ", ".join(f"{name} {percent(float(row.mean()))}" for name, row in zip(rows, means, strict=True) if row.size)
    return Grid(
        title=title,
        height=_ROW * len(rows),
        cells=cells,
        row_labels=[((row + 0.5) * _ROW, clipped(name), name) for row, name in enumerate(rows)],
        column_labels=[
            (round(LEFT + (column + 0.5) * wide, 1), clipped(name, every * wide))
            for column, name in enumerate(columns)
            if column % every == 0
        ],
        text=f"{title}. Means: {told}",
    )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One quantity over steps: its mean, and every seed where there are several."""

    label: str
    place: int
    """Decides colour and dashes."""
    mean: str
    """Points of a polyline."""
    seeds: list[str]
    title: str

    @property
    def colour(self) -> int:
        return self.place % NUM_COLOURS + 1


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Several quantities over steps."""

    title: str
    x: Axis
    y: Axis
    traces: list[Trace]
    text: str


Series = tuple[list[float], list[float]]
"""Steps and values."""


def lines(
    title: str, means: dict[str, Series], seeds: dict[str, list[Series]], *, shares: bool, first_place: int = 0
) -> Lines | None:
    """`means` and `seeds` by label. `shares`: values from 0 to 1, told in percent. None without points."""
    drawn = {label: _points(series) for label, series in means.items()}
    drawn = {label: points for label, points in drawn.items() if points}
    if not drawn:
        return None
    thin_ones = {label: [_points(one) for one in seeds.get(label, [])] for label in drawn}
    every = [point for points in drawn.values() for point in points]
    every += [point for of in thin_ones.values() for points in of for point in points]
    x = axis_over([step for step, _ in every], LEFT, WIDTH - RIGHT)
    y = axis_over([0.0, 1.0] if shares else [value for _, value in every], HEIGHT - BOTTOM, TOP, shares=shares)
    say = percent if shares else sig
    traces = [
        Trace(
            label=label,
            place=first_place + place,
            mean=_polyline(points, x, y),
            seeds=[_polyline(one, x, y) for one in thin_ones[label] if one] if len(thin_ones[label]) > 1 else [],
            title=f"{label}: {_at(points[0], say)}, {_at(points[-1], say)}",
        )
        for place, (label, points) in enumerate(drawn.items())
    ]
    return Lines(title=title, x=x, y=y, traces=traces, text=f"{title}. {'; '.join(trace.title for trace in traces)}")


def _at(point: tuple[float, float], say: Callable[[float | None], str]) -> str:
    return f"{say(point[1])} at step {point[0]:,.0f}"


def _points(series: Series) -> list[tuple[float, float]]:
    known = [(step, value) for step, value in zip(*series, strict=True) if math.isfinite(value)]
    return thin(known, _MOST_POINTS)


def _polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return " ".join(f"{x.place(step)},{y.place(value)}" for step, value in points)

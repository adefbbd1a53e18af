"""Geometry of the small plots in the headline table: every seed's point, the mean and its 95 % interval, on one scale."""

import math
from dataclasses import dataclass

from tunestudy.report.compare import Cell
from tunestudy.report.format import sig

WIDTH, HEIGHT, MARGIN = 220.0, 30.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values of one benchmark to horizontal places, with round ends."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Place of a value, kept inside of the plot."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 2)

    @property
    def labels(self) -> tuple[str, str]:
        return sig(self.low), sig(self.high)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row's plot, in SVG units."""

    dots: list[tuple[float, float]]
    mean: float | None
    interval: tuple[float, float] | None
    baseline: float | None
    text: str
    """The same in words."""


def scale_of(cells: list[Cell]) -> Scale | None:
    """A scale that holds every point, and intervals as far as that does not squeeze the points. None without points."""
    points = [value for cell in cells for value in cell.points.values()]
    if not points:
        return None
    low, high = min(points), max(points)
    span = (high - low) or max(abs(high), 1.0) * 0.1
    ends = [end for cell in cells for end in (cell.summary.ci_low, cell.summary.ci_high) if end is not None]
    low = max(min([low, *ends]), low - span)
    high = min(max([high, *ends]), high + span)
    step = 10.0 ** math.floor(math.log10((high - low) or span)) / 2
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if all(0 <= point <= 1 for point in points):
        low, high = max(low, 0.0), min(high, 1.0)  # shares have natural ends
    return Scale(low=low, high=high if high > low else low + step)


def strip_of(cell: Cell, scale: Scale, baseline_mean: float | None) -> Strip:
    """Places of the points of one row; points that would hide each other are set apart vertically."""
    summary = cell.summary
    ends = None if summary.ci_low is None or summary.ci_high is None else (summary.ci_low, summary.ci_high)
    return Strip(
        dots=_apart([scale.x(value) for value in cell.points.values()]),
        mean=None if summary.mean is None else scale.x(summary.mean),
        interval=None if ends is None else (scale.x(ends[0]), scale.x(ends[1])),
        baseline=None if baseline_mean is None else scale.x(baseline_mean),
        text=_words(cell),
    )


def _apart(places: list[float]) -> list[tuple[float, float]]:
    """Vertical places: the middle, or above and below it in turn while a neighbour is nearer than a dot's width."""
    placed: list[tuple[float, float]] = []
    offsets = (0.0, -6.0, 6.0, -9.0, 9.0)
    for x in places:
        free = [y for y in offsets if all(abs(x - other) > 6 or abs(y - at) > 5 for other, at in placed)]
        placed.append((x, free[0] if free else 0.0))
    return [(x, HEIGHT / 2 + y) for x, y in placed]


def _words(cell: Cell) -> str:
    if not cell.points:
        return "no result yet"
    points = ", ".join(f"seed {seed}: {sig(value)}" for seed, value in cell.points.items())
    if cell.summary.ci_low is None:
        return points
    return f"{points}; 95 % interval of the mean {sig(cell.summary.ci_low)} to {sig(cell.summary.ci_high)}"

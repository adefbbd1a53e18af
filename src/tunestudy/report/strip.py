"""Geometry of the small plots in the headline table: each seed's point, the mean and its 95 % interval on one scale."""

import math
from dataclasses import dataclass

from tunestudy.report.compare import Cell
from tunestudy.report.format import minus, sig, spread

WIDTH, HEIGHT, MARGIN = 222.0, 30.0, 12.0
_FAR = 3.0
"""A baseline further from the variants than this many times their own range is left off the scale, and drawn as an
arrow at its edge: else its distance would squeeze the variants, which are to be told apart, into one blot."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values of one benchmark to horizontal places, with round ends."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Place of a value, kept inside of the plot."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 2)

    def beyond(self, value: float) -> int:
        """−1 left of the scale, 1 right of it, 0 on it."""
        slack = 1e-9 * (self.high - self.low)
        return (value > self.high + slack) - (value < self.low - slack)

    @property
    def labels(self) -> tuple[str, str]:
        low, high = sig(self.low), sig(self.high)
        if low != high:
            return low, high
        digits = 2 + math.ceil(math.log10(max(abs(self.low), abs(self.high)) / (self.high - self.low)))
        return minus(f"{self.low:.{digits}g}"), minus(f"{self.high:.{digits}g}")


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row's plot, in SVG units."""

    dots: list[tuple[float, float]]
    mean: float | None
    interval: tuple[float, float] | None
    baseline: float | None
    off_scale: int
    """−1 or 1 when the whole row lies left or right of the scale."""
    value: str
    """Written beside the arrow of a row that is off the scale."""
    text: str
    """The same in words."""


def scale_of(cells: list[Cell], baseline: str | None) -> Scale | None:
    """A scale that holds the points of every variant, and of the baseline unless it is far off. None without points."""
    points = _points(cells)
    if not points:
        return None
    others = [cell for cell in cells if cell.variant != baseline]
    shown = others if _is_far(_points(others), _points([cell for cell in cells if cell.variant == baseline])) else cells
    points = _points(shown)
    low, high = min(points), max(points)
    span = spread(low, high) or abs(high) * 0.1 or 0.1
    ends = [end for cell in shown for end in (cell.summary.ci_low, cell.summary.ci_high) if end is not None]
    low = max(min([low, *ends]), low - span)
    high = min(max([high, *ends]), high + span)
    if not spread(low, high):  # all the same: in the middle of a scale of their own size
        low, high = low - span, high + span
    return _rounded(low, high, natural=all(0 <= point <= 1 for point in points))


def _points(cells: list[Cell]) -> list[float]:
    return [value for cell in cells for value in cell.points.values()]


def _is_far(others: list[float], base: list[float]) -> bool:
    if len(others) < 2 or not base:
        return False
    reach = max(others) - min(others)
    gap = max(min(others) - max(base), min(base) - max(others))
    return gap > _FAR * reach > 0


def _rounded(low: float, high: float, *, natural: bool) -> Scale:
    """Ends at round numbers; shares (`natural`) never leave 0 to 1."""
    step = 10.0 ** math.floor(math.log10((high - low) or 1.0)) / 2
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    if natural:
        low, high = max(low, 0.0), min(high, 1.0)
    return Scale(low=low, high=high if high > low else low + step)


def strip_of(cell: Cell, scale: Scale, baseline_mean: float | None) -> Strip:
    """Places of the points of one row; points that would hide each other are set apart vertically."""
    summary = cell.summary
    sides = {scale.beyond(value) for value in cell.points.values()}
    off = sides.pop() if len(sides) == 1 else 0
    ends = None if summary.ci_low is None or summary.ci_high is None else (summary.ci_low, summary.ci_high)
    seen = baseline_mean is not None and scale.beyond(baseline_mean) == 0
    return Strip(
        dots=[] if off else _apart([scale.x(value) for value in cell.points.values()]),
        mean=None if summary.mean is None or off else scale.x(summary.mean),
        interval=None if ends is None or off else (scale.x(ends[0]), scale.x(ends[1])),
        baseline=scale.x(baseline_mean) if baseline_mean is not None and seen else None,
        off_scale=off,
        value=sig(summary.mean),
        text=_words(cell),
    )


def _apart(places: list[float]) -> list[tuple[float, float]]:
    """Vertical places: the middle, or above and below it in turn while a neighbour is nearer than a dot's width."""
    placed: list[tuple[float, float]] = []
    offsets = (0.0, -7.0, 7.0, -11.0, 11.0)
    for x in places:
        free = [y for y in offsets if all(abs(x - other) > 7 or abs(y - at) > 5 for other, at in placed)]
        placed.append((x, free[0] if free else 0.0))
    return [(x, HEIGHT / 2 + y) for x, y in placed]


def _words(cell: Cell) -> str:
    if not cell.points:
        return "no result yet"
    points = ", ".join(f"seed {seed}: {sig(value)}" for seed, value in cell.points.items())
    if cell.summary.ci_low is None:
        return points
    return f"{points}; 95 % interval of the mean {sig(cell.summary.ci_low)} to {sig(cell.summary.ci_high)}"

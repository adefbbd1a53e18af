"""Geometry of the page's larger pictures, in SVG units: points over two axes, and a heat map. Templates draw them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tunestudy.report.format import minus, short_count, sig, spread

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 14.0, 12.0, 42.0
LEVELS = 10
"""Shades of a heat map above the empty one."""
_LOG_FROM = 8.0
"""An axis whose largest value is this many times its smallest is logarithmic."""
_HEAT_HEIGHT, _TALLEST_ROW, _MOST_COLUMNS = 230.0, 18.0, 60
_LABEL_HEIGHT, _LONGEST_LABEL = 13.0, 11


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool
    ticks: list[tuple[float, str]]
    """(place, label)."""

    def place(self, value: float) -> float:
        low, high, at = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 2)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One seed's point, or a variant's mean."""

    variant: str
    x: float
    y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Seeds' points, variants' means, and the front that no other mean beats."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    dots: list[Dot]
    means: list[Dot]
    front: str
    """Points of a polyline; empty without one."""


Point = tuple[str, str, float, float]
"""(variant, what the point is, x, y)."""


def scatter(
    points: Sequence[Point], means: Sequence[Point], *, titles: tuple[str, str], front: Sequence[str], shares: bool
) -> Scatter | None:
    """`shares`: x are shares from 0 to 1, told in percent; else counts. None without points."""
    if not points or not means:
        return None
    xs, ys = [p[2] for p in (*points, *means)], [p[3] for p in (*points, *means)]
    x, y = axis_over(xs, LEFT, WIDTH - RIGHT, shares=shares, counts=not shares), axis_over(ys, HEIGHT - BOTTOM, TOP)
    on_front = sorted((x.place(at), y.place(value)) for variant, _, at, value in means if variant in front)
    return Scatter(
        x=x,
        y=y,
        x_title=titles[0],
        y_title=titles[1],
        dots=[_dot(point, x, y) for point in points],
        means=[_dot(point, x, y) for point in means],
        front=" ".join(f"{at},{value}" for at, value in on_front) if len(on_front) > 1 else "",
    )


def _dot(point: Point, x: Axis, y: Axis) -> Dot:
    variant, what, at, value = point
    where = f"{at:.0%}" if at <= 1 else short_count(at)
    return Dot(variant=variant, x=x.place(at), y=y.place(value), title=f"{variant}, {what}: {sig(value)} at {where}")


def axis_over(values: Sequence[float], start: float, end: float, *, shares: bool = False, counts: bool = False) -> Axis:
    low, high = min(values), max(values)
    if counts and low > 0 and high / low >= _LOG_FROM:
        return log_axis(low, high, start, end)
    room = 0.08 * (spread(low, high) or abs(high) or 1.0)
    natural = low >= 0 and high <= 1
    low, high = low - room, high + room
    step = _round_step((high - low) / 5)
    at = np.arange(math.ceil(low / step) * step, high + step * 1e-6, step)
    kept = [0.0 if abs(v) < 1e-9 * step else float(v) for v in at if not natural or -1e-9 <= v <= 1 + 1e-9]
    digits = max(6, 1 + math.ceil(math.log10(max(abs(low), abs(high)) / step)))
    told = short_count if counts else partial(_short, digits)
    label = (lambda v: f"{v:.0%}".replace("%", " %")) if shares else told
    axis = Axis(low=low, high=high, start=start, end=end, logarithmic=False, ticks=[])
    axis.ticks.extend((axis.place(value), label(value)) for value in kept)
    return axis


def log_axis(low: float, high: float, start: float, end: float) -> Axis:
    axis = Axis(low=low / 1.25, high=high * 1.25, start=start, end=end, logarithmic=True, ticks=[])
    decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    marks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    within = [mark for mark in marks if axis.low <= mark <= axis.high]
    if len(within) > 6:
        within = [mark for mark in within if str(mark)[0] == "1"]
    axis.ticks.extend((axis.place(mark), short_count(mark)) for mark in within)
    return axis


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next((digit * power for digit in (1, 2, 5) if digit * power >= rough), 10 * power)


def _short(digits: int, value: float) -> str:
    return minus(f"{value:.{digits}g}")


@dataclass(frozen=True, kw_only=True)
class Heat:
    """Shares by row and step. Runs of one shade in a row are one rectangle, so that a page holds thousands of cells."""

    title: str
    height: float
    shades: list[tuple[int, str]]
    """(shade from 1 to `LEVELS`, an SVG path of all its cells)."""
    row_labels: list[tuple[float, str, str]]
    """(place, label, the name in full)."""
    step_labels: list[tuple[float, str, str]]
    """(place, label, text-anchor)."""
    text: str
    """The same in words."""


def heat(
    title: str,
    rows: Sequence[str],
    steps: Sequence[float],
    values: np.ndarray,
    what: str = "Share of gates at zero",
) -> Heat:
    """`values`: shape (rows, steps), shares from 0 to 1, of `what`."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_COLUMNS)).round().astype(int))
    shown, at = values[:, chosen], [steps[place] for place in chosen]
    tall = min(_TALLEST_ROW, _HEAT_HEIGHT / len(rows))
    wide = (WIDTH - LEFT - RIGHT) / len(at)
    every = max(1, math.ceil(_LABEL_HEIGHT / tall))
    final = ", ".join(f"{name} {value:.0%}" for name, value in zip(rows, values[:, -1], strict=True))
    return Heat(
        title=title,
        height=round(tall * len(rows), 2),
        shades=_shades(shown, tall, wide),
        row_labels=[
            (round((row + 0.5) * tall, 2), clipped(name), name) for row, name in enumerate(rows) if row % every == 0
        ],
        step_labels=_step_labels(at),
        text=f"{what} {title}, at step {at[-1]:,.0f}: {final}",
    )


def clipped(name: str, room: float = math.inf) -> str:
    """At most as many letters as have room, 6.5 units each, and never more than there is left of a picture."""
    most = max(2, min(_LONGEST_LABEL, int(room / 6.5) if math.isfinite(room) else _LONGEST_LABEL))
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _step_labels(steps: Sequence[float]) -> list[tuple[float, str, str]]:
    last = (WIDTH - RIGHT, f"{steps[-1]:,.0f}", "end")
    if len(steps) < 3:
        return [last]
    middle = len(steps) // 2
    place = LEFT + (middle + 0.5) / len(steps) * (WIDTH - LEFT - RIGHT)
    return [(LEFT, f"{steps[0]:,.0f}", "start"), (round(place, 1), f"{steps[middle]:,.0f}", "middle"), last]


def _shades(values: np.ndarray, tall: float, wide: float) -> list[tuple[int, str]]:
    paths: dict[int, list[str]] = {}
    for row, shades in enumerate(np.rint(np.clip(values, 0, 1) * LEVELS).astype(int).tolist()):
        begin = 0
        for column in range(1, len(shades) + 1):
            if column == len(shades) or shades[column] != shades[begin]:
                if shades[begin]:
                    x, width = LEFT + begin * wide, (column - begin) * wide
                    path = f"M{x:.1f} {row * tall:.1f}h{width:.1f}v{tall:.1f}h-{width:.1f}z"
                    paths.setdefault(shades[begin], []).append(path)
                begin = column
    return [(shade, "".join(paths[shade])) for shade in sorted(paths)]

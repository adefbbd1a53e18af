"""A benchmark's score by category: variants side by side in a table and a small picture of bars."""

from dataclasses import dataclass

from tunestudy.report.compare import Headline
from tunestudy.report.facts import StudyFacts, mean
from tunestudy.report.plots import Axis, axis_over
from tunestudy.report.resampling import Interval
from tunestudy.report.sample_level import SMALL, Category

WIDTH, LEFT, RIGHT = 560.0, 12.0, 14.0
LABEL, BAR, GAP, FOOT = 17.0, 9.0, 9.0, 20.0
_MOST_BARS = 160
_LONGEST_LABEL = 60


@dataclass(frozen=True, kw_only=True)
class Row:
    """One category."""

    value: str
    units: int
    cells: dict[str, Category]
    """By variant; absent without a result."""

    @property
    def small(self) -> bool:
        return self.units < SMALL


@dataclass(frozen=True, kw_only=True)
class Bar:
    """In SVG units."""

    variant: str
    y: float
    width: float
    whisker: tuple[float, float] | None
    title: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    """The picture of a breakdown."""

    height: float
    axis: Axis
    labels: list[tuple[float, str]]
    bars: list[Bar]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """One column of categories of one benchmark."""

    benchmark: str
    column: str
    rows: list[Row]
    variants: list[str]
    picture: Bars | None
    """None where there would be too many bars to tell apart."""


def breakdowns(facts: StudyFacts, headline: Headline, benchmark: str) -> list[Breakdown]:
    """One per column, largest categories first; columns with a single value are left out."""
    told = {variant: _categories(facts, headline, variant, benchmark) for variant in facts.variants}
    columns = dict.fromkeys(entry.column for entries in told.values() for entry in entries)
    return [_breakdown(benchmark, column, told) for column in columns]


def _categories(facts: StudyFacts, headline: Headline, variant: str, benchmark: str) -> list[Category]:
    """From the samples; where there are none, from the summaries, without intervals."""
    samples = headline.samples.get((variant, benchmark))
    if samples is not None:
        return samples.categories
    scores = [job.scores[benchmark] for job in facts.last_jobs(variant) if benchmark in job.scores]
    if not scores:
        return []
    found = []
    for column, values in scores[0].categories.items():
        for value, (units, _) in values.items() if len(values) > 1 else ():
            known = [s.categories[column][value][1] for s in scores if value in s.categories.get(column, {})]
            score = Interval(mean=mean(known) or 0.0, low=None, high=None)
            found.append(Category(column=column, value=value, units=units, score=score, delta=None))
    return found


def _breakdown(benchmark: str, column: str, told: dict[str, list[Category]]) -> Breakdown:
    rows: dict[str, Row] = {}
    for variant, entries in told.items():
        for entry in entries:
            if entry.column == column:
                row = rows.setdefault(entry.value, Row(value=entry.value, units=entry.units, cells={}))
                row.cells[variant] = entry
    ordered = sorted(rows.values(), key=lambda row: -row.units)
    variants = [variant for variant in told if any(variant in row.cells for row in ordered)]
    few = len(variants) * len(ordered) <= _MOST_BARS
    picture = _bars(ordered, variants) if few else None
    return Breakdown(benchmark=benchmark, column=column, rows=ordered, variants=variants, picture=picture)


def _bars(rows: list[Row], variants: list[str]) -> Bars:
    ends = [end for row in rows for cell in row.cells.values() for end in (cell.score.high, cell.score.mean)]
    from_zero = _axis(max([end for end in ends if end is not None], default=1.0) or 1.0)
    labels, bars, y = [], [], 0.0
    for row in rows:
        name = row.value if len(row.value) <= _LONGEST_LABEL else f"{row.value[: _LONGEST_LABEL - 1]}…"
        labels.append((y + LABEL - 5, f"{name} (n = {row.units})"))
        y += LABEL
        for variant in variants:
            if cell := row.cells.get(variant):
                bars.append(_bar(from_zero, variant, row, cell, y))
            y += BAR
        y += GAP
    return Bars(height=y + FOOT, axis=from_zero, labels=labels, bars=bars)


def _axis(top: float) -> Axis:
    """From zero to the top or the tick above it."""
    around = axis_over([0.0, top], LEFT, WIDTH - RIGHT)
    span, room = around.high - around.low, around.end - around.start
    values = [(around.low + (place - around.start) / room * span, label) for place, label in around.ticks]
    kept = [(max(0.0, value), label) for value, label in values if value > -1e-3 * span]
    axis = Axis(low=0.0, high=max(top, kept[-1][0]), start=LEFT, end=WIDTH - RIGHT, logarithmic=False, ticks=[])
    axis.ticks.extend((axis.place(value), label) for value, label in kept)
    return axis


def _bar(axis: Axis, variant: str, row: Row, cell: Category, y: float) -> Bar:
    score = cell.score
    known = score.low is not None and score.high is not None
    words = f", 95 % interval {score.low:.3f} to {score.high:.3f}" if known else ""
    return Bar(
        variant=variant,
        y=y,
        width=round(axis.place(score.mean) - axis.start, 2),
        whisker=(axis.place(score.low), axis.place(score.high))
        if score.low is not None and score.high is not None
        else None,
        title=f"{variant}, {row.value}: {score.mean:.3f}{words}, n = {row.units}",
    )

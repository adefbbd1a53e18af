"""Learning curves per variant: every seed's line, their mean, and the band from the lowest to the highest seed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tunestudy.report.facts import JobFacts, StudyFacts
from tunestudy.report.format import listing
from tunestudy.report.overfit import finite_points

NUM_COLOURS = 7
MOST_POINTS, LEAST_POINTS, PAGE_POINTS = 300, 40, 300_000
"""Longer logs are thinned to this many points per line, first and last kept; to fewer when so many jobs are drawn that
the page would hold more than `PAGE_POINTS`."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One quantity over optimiser steps."""

    key: str
    log: str
    title: str
    logarithmic: bool
    """Whether the log-scale switch applies: only where values stay above zero."""
    column: str = ""
    """Of the log; empty: named as the key."""
    marks: bool = False
    """Whether each value is marked: where there are few."""


CHARTS = (
    Chart(key="train_loss", log="train_log", title="Training loss", logarithmic=True),
    Chart(key="eval_loss", log="eval_log", title="Held-out loss", logarithmic=True),
    Chart(key="learning_rate", log="train_log", title="Learning rate", logarithmic=False),
    Chart(key="grad_norm", log="train_log", title="Gradient norm", logarithmic=True),
)

ORDER = Chart(key="order_value", log="train_log", title="What samples are sorted by", logarithmic=False)
"""Only where a curriculum goes by numbers."""

SPARSITY = Chart(key="overall", log="sparsity_log", title="Gates at zero", logarithmic=False)
"""Drawn beside the others' data, in the section of its own."""

Points = list[tuple[float, float]]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A variant (or the variants that share a stage) in one chart."""

    label: str
    colour: int
    """Place of the variant for its colour (`StudyFacts.places`); −1 for a stage that several share."""
    seeds: dict[int, Points]
    steps: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    @property
    def lowest(self) -> tuple[float, float]:
        """Step and value where the mean is lowest."""
        place = int(np.argmin(self.mean))
        return self.steps[place], self.mean[place]


@dataclass(frozen=True, kw_only=True)
class View:
    """A choice of jobs to draw: the last stage of every variant, or one stage by name."""

    key: str
    label: str
    lines: dict[str, list[Line]]
    """By chart."""


def charts_of(facts: StudyFacts) -> tuple[Chart, ...]:
    """All charts that the study has data of a kind for: an order only of curricula, sparsity only of gates."""
    gated = any(job.sparsity_log for job in facts.jobs)
    return (*curve_charts(facts), *([SPARSITY] if gated else []), *score_charts(facts))


def curve_charts(facts: StudyFacts) -> tuple[Chart, ...]:
    """Those of the section of learning curves."""
    ordered = any(finite_points(job.train_log, ORDER.key) for job in facts.jobs)
    return (*CHARTS, *([ORDER] if ordered else []))


def score_charts(facts: StudyFacts) -> list[Chart]:
    """Score by step of every benchmark that checkpoints were scored on. Keys are numbers: names may hold anything."""
    return [
        Chart(key=f"score-{place}", log="score_log", title=name, logarithmic=False, column=name, marks=True)
        for place, name in enumerate(facts.benchmarks)
        if any(name in job.score_log for job in facts.jobs)
    ]


def make_views(facts: StudyFacts) -> list[View]:
    """The last stages first, then every stage by name when there is more than one. Empty without any curve."""
    places = facts.places
    last = [(variant, places[variant], facts.last_jobs(variant)) for variant in facts.variants]
    most = points_per_line(len(facts.jobs))
    charts = charts_of(facts)
    views = [_view("last", "last stage of every variant", last, most, charts)]
    stages = list(dict.fromkeys(job.stage for job in facts.jobs if job.train_log or job.eval_log))
    if len(stages) > 1:
        views += [
            _view(f"stage:{stage}", f"stage {stage}", _groups(facts, stage, places), most, charts) for stage in stages
        ]
    return [view for view in views if any(view.lines.values())]


def _groups(facts: StudyFacts, stage: str, places: dict[str, int]) -> list[tuple[str, int, list[JobFacts]]]:
    """Jobs of a stage, those that serve the same variants together."""
    groups: dict[tuple[str, ...], list[JobFacts]] = defaultdict(list)
    for job in facts.jobs:
        if job.stage == stage:
            groups[job.variants].append(job)
    return [
        (listing(variants, 3), places.get(variants[0], -1) if len(variants) == 1 else -1, jobs)
        for variants, jobs in groups.items()
        if variants
    ]


def points_per_line(jobs: int) -> int:
    """How many points a line may have when every job is drawn in all charts, and in two views."""
    return min(MOST_POINTS, max(LEAST_POINTS, PAGE_POINTS // (2 * len(CHARTS) * max(1, jobs))))


def _view(
    key: str, label: str, groups: Sequence[tuple[str, int, list[JobFacts]]], most: int, charts: Sequence[Chart]
) -> View:
    lines = {chart.key: [line for group in groups if (line := _line(chart, *group, most))] for chart in charts}
    return View(key=key, label=label, lines=lines)


def _line(chart: Chart, label: str, colour: int, jobs: list[JobFacts], most: int) -> Line | None:
    seeds = {job.seed: list(finite_points(getattr(job, chart.log), chart.column or chart.key)) for job in jobs}
    seeds = {seed: thin(points, most) for seed, points in seeds.items() if points}
    if not seeds:
        return None
    return line_of(label, colour, seeds, *common_grid(list(seeds.values())))


def line_of(label: str, colour: int, seeds: dict[int, Points], steps: np.ndarray, values: np.ndarray) -> Line:
    """`seeds` as they are drawn; steps (S,) and values (lines, S): what the mean and the band are of."""
    return Line(
        label=label,
        colour=colour,
        seeds=seeds,
        steps=steps.tolist(),
        mean=values.mean(axis=0).tolist(),
        low=values.min(axis=0).tolist(),
        high=values.max(axis=0).tolist(),
    )


def common_grid(lines: list[Points]) -> tuple[np.ndarray, np.ndarray]:
    """All steps that every line covers, and each line there, straight between its points. Shapes (S,), (lines, S)."""
    first, last = max(points[0][0] for points in lines), min(points[-1][0] for points in lines)
    steps = np.unique([step for points in lines for step, _ in points])
    within = steps[(steps >= first) & (steps <= last)]
    if within.size == 0:  # one line ends before another begins: nothing is common
        lines, within = lines[:1], np.array([step for step, _ in lines[0]])
    return within, np.array([np.interp(within, [x for x, _ in points], [y for _, y in points]) for points in lines])


def thin(rows: list[_T], most: int = MOST_POINTS) -> list[_T]:
    """At most `most` of them, evenly spaced, the ends kept."""
    if len(rows) <= most:
        return rows
    return [rows[round(place)] for place in np.linspace(0, len(rows) - 1, most)]


def as_json(views: list[View], charts: Sequence[Chart] = CHARTS) -> dict[str, object]:
    """What report.js draws."""
    return {
        "charts": [
            {"key": chart.key, "title": chart.title, "log": chart.logarithmic, "marks": chart.marks} for chart in charts
        ],
        "views": {
            view.key: {
                key: [
                    {
                        "label": line.label,
                        "colour": "x" if line.colour < 0 else str(colour_of(line.colour)),
                        "dashed": line.colour > NUM_COLOURS,
                        "x": line.steps,
                        "mean": short(line.mean),
                        "low": short(line.low),
                        "high": short(line.high),
                        "seeds": [
                            {"seed": seed, "x": [step for step, _ in points], "y": short([y for _, y in points])}
                            for seed, points in line.seeds.items()
                        ],
                    }
                    for line in lines
                ]
                for key, lines in view.lines.items()
            }
            for view in views
        },
    }


def colour_of(place: int) -> int:
    """Number of the style sheet's colour: 0 is the baseline's alone, 1 to 7 repeat."""
    return 0 if place == 0 else (place - 1) % NUM_COLOURS + 1


def short(values: Sequence[float]) -> list[float]:
    """Five significant digits: finer than any screen."""
    return [float(f"{value:.5g}") for value in values]

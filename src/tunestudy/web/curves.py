"""Learning curves of a running study: the report's, from logs that are read on where they grow."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from tunestudy.records.redact import redact
from tunestudy.report.curves import CHARTS, ORDER, SPARSITY, Chart, Line, Points, View, as_json, common_grid, line_of
from tunestudy.report.format import listing
from tunestudy.web.board import Board, Seen
from tunestudy.web.series import Log

ALL = (*CHARTS, ORDER, SPARSITY)
MOST_LINES = 8
"""Variants drawn at once; which ones is the reader's choice."""
_MOST_POINTS, _LEAST_POINTS, _PAGE_POINTS = 300, 60, 24_000
READ_BYTES = 4 * 2**20
"""Of all logs in one answer, so that none takes long; the rest comes with the next."""
_FILES = {"train_log": "loss_log", "eval_log": "eval_log", "sparsity_log": "sparsity_log"}


@dataclass(frozen=True)
class Request:
    """What the page draws: `trial` (stages one after the other), `last`, or `stage:NAME`, of some variants."""

    view: str = "trial"
    variants: tuple[str, ...] = ()


class Curves:
    """All logs that were asked for so far, and the pictures made of them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._logs: dict[tuple[str, str], Log] = {}

    def answer(self, request: Request, baseline: str | None) -> dict[str, Any]:
        """What report.js draws, and `views` to choose from, `boundaries`, `shown` variants, bytes that are `left`."""
        stages = self._stages()
        chosen = [name for name in request.variants if name in stages][:MOST_LINES] or self._default(baseline)
        order = [baseline, *(name for name in stages if name != baseline)] if baseline in stages else list(stages)
        choices = _choices(stages)
        view = request.view if request.view in dict(choices) else choices[0][0] if choices else "last"
        left = self._read([job for name in chosen for job in self._jobs_of(name, view)])
        groups = [(name, order.index(name), self._trials(name, view)) for name in chosen]
        lines = sum(len(trials) for _, _, trials in groups)
        most = min(_MOST_POINTS, max(_LEAST_POINTS, _PAGE_POINTS // max(1, len(ALL) * lines)))
        drawn = {chart.key: [line for group in groups if (line := self._line(chart, *group, most))] for chart in ALL}
        return {
            **as_json([View(key=view, label="", lines=drawn)], ALL),
            "choices": choices,
            "view": view,
            "shown": chosen,
            "most": MOST_LINES,
            "left": left,
            "boundaries": self._boundaries(groups) if view == "trial" else [],
        }

    def _stages(self) -> dict[str, list[str]]:
        """By variant, in the plan's order: parents come first."""
        found: dict[str, list[str]] = {}
        for job in self._board.jobs:
            for variant in job.variants:
                stages = found.setdefault(variant, [])
                if job.stage not in stages:
                    stages.append(job.stage)
        return found

    def _default(self, baseline: str | None) -> list[str]:
        """The baseline, and those in which something happened last."""
        latest: dict[str, float] = {}
        for job in self._board.jobs:
            began = job.told.get("began") or 0.0
            for variant in job.variants if len(job.variants) == 1 or began else ():
                latest[variant] = max(latest.get(variant, 0.0), float(began))
        by_time = sorted(latest, key=lambda name: (name != baseline, -latest[name]))
        chosen = set(by_time[:MOST_LINES])
        return [name for name in self._stages() if name in chosen]

    def _jobs_of(self, variant: str, view: str) -> list[Seen]:
        jobs = [job for job in self._board.jobs if variant in job.variants]
        if view.startswith("stage:"):
            return [job for job in jobs if f"stage:{job.stage}" == view]
        return jobs if view == "trial" else [job for job in jobs if job.stage == jobs[-1].stage]

    def _trials(self, variant: str, view: str) -> dict[int, list[Seen]]:
        """By seed, the jobs one after the other."""
        found: dict[int, list[Seen]] = {}
        for job in self._jobs_of(variant, view):
            found.setdefault(job.seed, []).append(job)
        return found

    def _read(self, jobs: Iterable[Seen]) -> int:
        """Read on in all logs of these jobs; returns how many bytes are left for the next time."""
        budget, left = READ_BYTES, 0
        for job in dict.fromkeys(job.id for job in jobs):
            folder = self._board.folder_of(job)
            for name in _FILES if folder else ():
                columns = tuple(chart.column or chart.key for chart in ALL if chart.log == name)
                log = self._logs.get((job, name))
                if log is None:
                    log = self._logs[job, name] = Log(getattr(folder, _FILES[name]), columns)
                budget -= log.read(budget)  # nothing, once it is spent: how much is left is asked all the same
                left += log.left
        return left

    def _line(self, chart: Chart, variant: str, place: int, trials: dict[int, list[Seen]], most: int) -> Line | None:
        seeds: dict[int, Points] = {}
        means: list[Points] = []
        for seed, jobs in trials.items():
            thick, thin = self._joined(chart, jobs, most)
            if thick:
                seeds[seed] = thin
                means.append(thick)
        if not seeds:
            return None
        return line_of(variant, place, seeds, *_thinned(*common_grid(means), most))

    def _joined(self, chart: Chart, jobs: Sequence[Seen], most: int) -> tuple[Points, Points]:
        """(means, the same with every group's lowest and highest) of jobs one after the other."""
        thick: Points = []
        thin: Points = []
        start = 0.0
        for job in jobs:
            log = self._logs.get((job.id, chart.log))
            series = log.series.get(chart.column or chart.key) if log else None
            if series is not None and len(series):
                steps, mean, low, high, rows = series.thinned(most)
                thick += list(zip((steps + start).tolist(), mean.tolist(), strict=True))
                thin += _spread(steps + start, mean, low, high, rows)
            start += self._length(job)
        return thick, thin

    def _length(self, job: Seen) -> float:
        """Steps of a stage: as planned, or as far as it came."""
        logs = [log for name in _FILES if (log := self._logs.get((job.id, name)))]
        reached = max((float(s.steps[-1]) for log in logs for s in log.series.values() if len(s)), default=0.0)
        return max(float(job.steps or 0), reached) if job.status != "done" else reached or float(job.steps or 0)

    def _boundaries(self, groups: Iterable[tuple[str, int, dict[int, list[Seen]]]]) -> list[dict[str, Any]]:
        """Where a stage ends and the next begins, each place once with the stages that begin there."""
        found: dict[float, list[str]] = {}
        for _, _, trials in groups:
            for jobs in list(trials.values())[:1]:
                at = 0.0
                for before, after in pairwise(jobs):
                    at += self._length(before)
                    if at:
                        found.setdefault(at, []).append(after.stage)
        return [{"x": at, "label": redact(listing(list(dict.fromkeys(found[at])), 3))} for at in sorted(found)]


def _spread(steps: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> Points:
    """Single rows as they are; of groups the lowest and the highest, so that no spike is lost."""
    points: Points = []
    before = float(steps[0])
    for step, middle, lowest, highest, count in zip(*(a.tolist() for a in (steps, mean, low, high, rows)), strict=True):
        if count == 1:
            points.append((step, middle))
        else:
            points += [((before + step) / 2, highest), (step, lowest)]
        before = step
    return points


def _thinned(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    if len(steps) <= most:
        return steps, values
    kept = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(int))
    return steps[kept], values[:, kept]


def _choices(stages: dict[str, list[str]]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(stage for of in stages.values() for stage in of))
    several = any(len(of) > 1 for of in stages.values())
    found = [("trial", "all stages, one after the other")] if several else []
    found.append(("last", "last stage of every variant"))
    return found + ([(f"stage:{name}", f"stage {name}") for name in names] if len(names) > 1 else [])

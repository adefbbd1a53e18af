"""What is known of a study's time before it goes on, and its lines."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.config.job import Job
from tunestudy.launch.estimates.schedule import Schedule, make_schedule
from tunestudy.records.host import host_name
from tunestudy.report.format import duration
from tunestudy.study.estimates.timing import JobTime, expected_times, seconds_left
from tunestudy.study.plan import Plan
from tunestudy.study.show import MAX_ROWS

_ELSEWHERE = {"ray": "the Ray cluster's machines", "slurm": "SLURM's nodes"}


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of a study's time before it goes on."""

    times: Mapping[str, JobTime]
    left: Mapping[str, float | None]
    """Seconds that each job still takes."""
    schedule: Schedule
    experiments: Sequence["Experiment"]
    now: float
    timed_for: str = ""
    """Whose machines the jobs run on, where it is not this one that timed their steps."""

    @property
    def slots(self) -> int:
        return len(self.schedule.slots)

    @property
    def wall_s(self) -> float | None:
        """Until everything is done; None when some job's time is unknown."""
        return self.schedule.makespan_s

    @property
    def done_at(self) -> float | None:
        return None if self.wall_s is None else self.now + self.wall_s

    @property
    def without_benchmarks(self) -> bool:
        """Whether a time lacks its benchmarks: none has been scored yet."""
        return any(time.benchmark_s is None for name, time in self.times.items() if self.left[name])

    @property
    def timed_on(self) -> str | None:
        """The machine that timed steps; None where no time comes from that."""
        return host_name() if any(time.evidence == "timed steps" for time in self.times.values()) else None

    def as_json(self) -> dict[str, Any]:
        return {
            "jobs": {
                name: {"expected_s": time.seconds, "left_s": self.left[name], "evidence": time.evidence}
                for name, time in self.times.items()
            },
            "experiments": [experiment.as_json() for experiment in self.experiments],
            "slots": self.slots,
            "left_s": self.wall_s,
            "done_at": self.done_at,
            "benchmarks_included": not self.without_benchmarks,
            "timed_on": self.timed_on,
            **self.schedule.as_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A variant over all its seeds; shared stages count in each that uses them."""

    variant: str
    seeds: int
    total_s: float | None
    left_s: float | None
    evidence: str

    def as_json(self) -> dict[str, Any]:
        return {"variant": self.variant, "expected_s": self.total_s, "left_s": self.left_s, "evidence": self.evidence}


def make_outlook(plan: Plan, *, only: Collection[str] | None = None) -> Outlook:
    """What the evidence at hand says; `only`: the schedule is of these jobs."""
    times = expected_times(plan, ranks=plan.study.resources.ranks, host=host_name())
    left = {planned.job.id: seconds_left(planned, times[planned.job.id]) for planned in plan.jobs}
    return Outlook(
        times=times,
        left=left,
        schedule=make_schedule(plan, times, left, only=only),
        experiments=list(_experiments(plan, times, left)),
        now=time.time(),
        timed_for=_ELSEWHERE.get(plan.study.resources.executor, ""),
    )


def _experiments(plan: Plan, times: Mapping[str, JobTime], left: Mapping[str, float | None]) -> Iterator[Experiment]:
    jobs: dict[str, list[Job]] = {variant: [] for variant in plan.study.variants}
    for planned in plan.jobs:
        for variant in planned.job.variants:
            jobs[variant].append(planned.job)
    for variant, own in jobs.items():
        yield Experiment(
            variant=variant,
            seeds=len({job.seed for job in own}),
            total_s=_sum([times[job.id].seconds for job in own]),
            left_s=_sum([left[job.id] for job in own]),
            evidence=_evidence([times[job.id].evidence for job in own]),
        )


def _evidence(kinds: Sequence[str | None]) -> str:
    known = sorted({kind for kind in kinds if kind})
    lacking = f"; nothing is known of {kinds.count(None)} of its {len(kinds)} jobs" if None in kinds else ""
    return (f"from {' and '.join(known)}" if known else "") + (lacking if known else lacking.removeprefix("; "))


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value)


def outlook_lines(outlook: Outlook, study: str) -> list[str]:
    """The lines that `plan` and `run` print."""
    missing = [name for name, seconds in outlook.left.items() if seconds is None]
    if len(missing) == len(outlook.left):
        return [
            "",
            f"Time: unknown, nothing like it has run here; `tunestudy plan {study} --estimate` times a few steps",
        ]
    lines = ["", "Time (all seeds; shared stages count in each):"]
    shown = outlook.experiments[:MAX_ROWS]
    wide = max(len(experiment.variant) for experiment in shown)
    for one in shown:
        amount = "?" if one.total_s is None else duration(one.total_s)
        left = "" if one.left_s in (one.total_s, None) else f", {duration(one.left_s)} left"
        lines.append(f"  {one.variant.ljust(wide)}  {amount}{left}  ({one.evidence})")
    if outlook.timed_for and outlook.timed_on:
        where = f"steps were timed on {outlook.timed_on}; jobs run on {outlook.timed_for}"
        lines.append(f"  {where}, which may be faster or slower")
    lines.append(f"  {_together(outlook, missing)}")
    if any("finished jobs" in one.evidence for one in outlook.experiments):
        lines.append("  (what finished jobs took is without the start of their processes, some seconds each)")
    return lines


def _together(outlook: Outlook, missing: Sequence[str]) -> str:
    if outlook.done_at is None or outlook.wall_s is None:
        return f"together: unknown, {len(missing)} jobs have no evidence yet"
    slots = f"{outlook.slots} at a time" if outlook.slots > 1 else "one at a time"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(outlook.done_at))
    lacking = "; benchmarks come on top, none has been timed yet" if outlook.without_benchmarks else ""
    return f"together: {duration(outlook.wall_s)} left with jobs {slots}, done about {when}{lacking}"

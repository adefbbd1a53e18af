"""What every stage costs, by term: seconds, bytes in memory and on disk.

Each number comes from the best evidence there is: finished jobs of the stage, steps that were timed here, what the
study's `estimate:` states. Nothing is guessed: what has no evidence is None, and so is every sum with it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.estimate import Claim, Prior
from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import read_object
from tunestudy.study.estimates.memory import MEBIBYTE, Memory, Shift, memory_of, shift_of
from tunestudy.study.estimates.spans import NOTHING, Span, total
from tunestudy.study.estimates.stated import num_evaluations
from tunestudy.study.estimates.timing import benchmark_seconds, speed_key
from tunestudy.study.hosts import ranks_per_host
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.show import Group, groups_of
from tunestudy.study.state import folders_on_disk

TIMES = ("training", "evaluation", "checkpoints", "start", "benchmarks")
"""Terms of a job's time, in the order in which they are shown."""
SPREAD = 0.1
"""Of what was timed once."""
FULL_IS = 3
"""A full checkpoint with AdamW's two moments holds three times what learns."""
FLOAT = 4
"""Bytes of a number that learns."""

Facts = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Of one job of a stage; `jobs` of them are planned, one per seed."""

    group: Group
    stage: str
    variants: tuple[str, ...]
    jobs: int
    left: int
    """Jobs that are not done."""
    steps: int | None
    saves: int | None
    evaluations: int | None
    step_s: Span | None
    evaluation_s: Span | None
    save_s: Span | None
    times: Mapping[str, Span | None]
    evidence: str
    upload_s: Span | None
    """One upload; None where nobody said."""
    checkpoint_bytes: Span | None
    disk_bytes: Span | None
    memory: Memory | None
    no_memory: str
    """Why there is no memory, in words."""
    claims: tuple[Claim, ...]

    @property
    def seconds(self) -> Span | None:
        """Of one job; start and benchmarks are left out where nobody timed or stated them (`lacking`)."""
        return total(span for name, span in self.times.items() if name not in self.lacking)

    def seconds_left(self, planned: PlannedJob) -> Span | None:
        """Of one of its jobs: from its last full checkpoint on, where it has begun; it starts anew all the same."""
        if planned.status in ("done", "evaluate"):
            return NOTHING
        share = planned.share_left(self.steps)
        return total(
            span.times(share) if span and name not in ("start", "benchmarks") else span
            for name, span in self.times.items()
            if name not in self.lacking
        )

    @property
    def lacking(self) -> tuple[str, ...]:
        """Terms that are not part of `seconds`."""
        return tuple(name for name in ("start", "benchmarks") if self.times[name] is None)

    @property
    def uploads_s(self) -> Span | None:
        return None if self.upload_s is None or self.saves is None else self.upload_s.times(self.saves)

    @property
    def uploads_bytes(self) -> Span | None:
        """Of all uploads, where uploads are spoken of."""
        if self.upload_s is None or self.saves is None or self.checkpoint_bytes is None:
            return None
        return self.checkpoint_bytes.times(self.saves)

    def as_json(self) -> dict[str, Any]:
        def of(span: Span | None) -> dict[str, float] | None:
            return None if span is None else span.as_json()

        return {
            "stage": self.stage,
            "variants": list(self.variants),
            "jobs": self.jobs,
            "jobs_left": self.left,
            "not_included": list(self.lacking),
            "steps": self.steps,
            "checkpoints": self.saves,
            "evaluations": self.evaluations,
            "seconds": {**{name: of(span) for name, span in self.times.items()}, "together": of(self.seconds)},
            "uploads_s": of(self.uploads_s),
            "uploads_bytes": of(self.uploads_bytes),
            "evidence": self.evidence,
            "checkpoint_bytes": of(self.checkpoint_bytes),
            "disk_bytes": of(self.disk_bytes),
            "memory": None if self.memory is None else self.memory.as_json(),
            "memory_unknown": self.no_memory or None,
        }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is on disk about a stage."""

    probe: Facts
    counted: Facts
    results: Sequence[Facts]
    """result.json of its finished jobs."""

    @property
    def peaks_mb(self) -> list[float]:
        return [float(result["peak_memory_mb"]) for result in self.results if result.get("peak_memory_mb")]


def memory_key(plan: Plan, job: Job, *, ranks: int, host: str, device: str, per_host: int | None = None) -> str:
    """Names what was counted of a stage's memory: its speed's key, the kind of device, and what `slicing` says."""
    sliced = "" if per_host in (None, ranks) else f"/{per_host}"
    return speed_key(plan, job, ranks=ranks, host=f"{host}/{device}{sliced}")


def slicing(plan: Plan) -> int:
    """Ranks over which a model is cut where that stays within a machine (`fsdp2.within_node`)."""
    if not plan.jobs:
        return plan.study.resources.ranks
    job = plan.jobs[0].job
    folder = plan.folder.job(job.id).root.absolute()
    return ranks_per_host(plan.study.resources, Path(os.path.normpath(folder / job.base_dir)))


def stage_costs(plan: Plan, *, host: str, device: str) -> list[StageCost]:
    """One for each stage that trains, as the plan groups its jobs."""
    groups = [group for group in groups_of(plan.jobs) if trains(group.jobs[0].job)]
    on_disk = folders_on_disk(plan.folder)
    seen = [_seen(plan, group, host, device, on_disk) for group in groups]
    counted = [(one.counted, one.probe or None, one.peaks_mb) for one in seen if "tokens" in one.counted]
    shift = shift_of(counted)
    scored = benchmark_seconds(plan.jobs, plan.folder, on_disk)
    return [_cost(plan, group, one, shift, scored) for group, one in zip(groups, seen, strict=True)]


def trains(job: Job) -> bool:
    """Whether the job takes steps."""
    return job.training is not None and not job.training.trains_nothing


def _seen(plan: Plan, group: Group, host: str, device: str, on_disk: set[str]) -> Seen:
    job, ranks = group.jobs[0].job, plan.study.resources.ranks
    key = memory_key(plan, job, ranks=ranks, host=host, device=device, per_host=slicing(plan))
    results = [
        (planned.job, read_object(plan.folder.job(planned.job.id).result_json))
        for planned in group.jobs
        if planned.job.id in on_disk
    ]
    return Seen(
        probe=read_object(plan.folder.probe(speed_key(plan, job, ranks=ranks, host=host))),
        counted=read_object(plan.folder.foreseen(key)),
        results=[result for one, result in results if result.get("fingerprint") == one.fingerprint],
    )


def _cost(plan: Plan, group: Group, seen: Seen, shift: Shift | None, scored: Mapping[str, float]) -> StageCost:
    first = group.jobs[0]
    settings = first.job.training
    assert settings is not None
    stated = plan.study.estimate.prior(group.stage, group.variants)
    steps, saves = first.steps, first.checkpoints
    if seen.probe:
        steps = int(seen.probe["total_steps"])
    evaluations = int(seen.probe["evaluations"]) if seen.probe else num_evaluations(plan.study, settings, steps)
    one = _of_one(seen, stated)
    times = _times(one, steps=steps, saves=saves, evaluations=evaluations)
    if not seen.probe and stated.training_s is not None:
        times["training"] = Span.between(stated.training_s)
    times |= {"start": _start(seen, stated), "benchmarks": _benchmarks(first, stated, scored)}
    times, evidence = _finished(times, seen) if seen.results else (times, _evidence(seen, stated))
    checkpoint = _checkpoint_bytes(settings, seen, stated)
    memory = None
    if "tokens" in seen.counted:
        memory = memory_of(seen.counted, probe=seen.probe or None, peaks_mb=seen.peaks_mb, shift=shift)
    return StageCost(
        group=group,
        stage=group.stage,
        variants=group.variants,
        jobs=len(group.jobs),
        left=sum(planned.status not in ("done", "evaluate") for planned in group.jobs),
        steps=steps,
        saves=saves,
        evaluations=evaluations,
        step_s=one["step"],
        evaluation_s=one["evaluation"],
        save_s=one["save"],
        times=times,
        evidence=evidence,
        upload_s=None if stated.upload_s is None else Span.between(stated.upload_s),
        checkpoint_bytes=checkpoint,
        disk_bytes=_disk_bytes(settings, saves, checkpoint),
        memory=memory,
        no_memory="" if memory else str(seen.counted.get("missing", "")),
        claims=plan.study.estimate.claims_of(group.stage, group.variants),
    )


def _of_one(seen: Seen, stated: Prior) -> dict[str, Span | None]:
    """Seconds of a step, of an evaluation and of a checkpoint: as timed, else as stated."""
    probe = seen.probe
    if not probe:
        said = {"step": stated.step_s, "evaluation": stated.evaluation_s, "save": stated.save_s}
        return {name: None if value is None else Span.between(value) for name, value in said.items()}
    low, high = probe.get("step_s_range", (probe["step_s"],) * 2)
    evaluation = probe.get("evaluation_s") or 0.0
    saved = probe.get("save_s")
    return {
        "step": Span(min(low, probe["step_s"]), probe["step_s"], max(high, probe["step_s"])),
        "evaluation": Span(evaluation * (1 - SPREAD), evaluation, evaluation * (1 + SPREAD)),
        "save": None if saved is None else Span(saved, saved, probe["saved_s"]),
    }


def _times(
    one: Mapping[str, Span | None], *, steps: int | None, saves: int | None, evaluations: int | None
) -> dict[str, Span | None]:
    counts = {"training": ("step", steps), "evaluation": ("evaluation", evaluations), "checkpoints": ("save", saves)}
    found: dict[str, Span | None] = {}
    for name, (what, count) in counts.items():
        span = one[what]
        found[name] = NOTHING if count == 0 else None if span is None or count is None else span.times(count)
    return found


def _start(seen: Seen, stated: Prior) -> Span | None:
    if seen.probe:
        expected = seen.probe["setup_s"] + seen.probe.get("start_s", 0.0)
        return Span(expected * (1 - SPREAD), expected, expected * (1 + SPREAD))
    return None if stated.start_s is None else Span.between(stated.start_s)


def _benchmarks(first: PlannedJob, stated: Prior, scored: Mapping[str, float]) -> Span | None:
    names = list(first.job.evaluations)
    if not names:
        return NOTHING
    if all(name in scored for name in names):
        return Span.exactly(sum(scored[name] for name in names))
    return None if stated.benchmarks_s is None else Span.between(stated.benchmarks_s)


def _finished(times: Mapping[str, Span | None], seen: Seen) -> tuple[dict[str, Span | None], str]:
    """As finished jobs of the stage took; what they do not tell stays as it was."""
    keys = {"training": "train_s", "evaluation": "eval_s", "checkpoints": "save_s"}
    found = dict(times)
    for name, key in keys.items():
        values = [float(result[key]) for result in seen.results if isinstance(result.get(key), int | float)]
        found[name] = Span.of_values(values) if values else found[name]
    rests = [
        max(0.0, float(result["duration_s"]) - sum(float(result.get(key) or 0.0) for key in keys.values()))
        for result in seen.results
        if isinstance(result.get("duration_s"), int | float)
    ]
    found["start"] = Span.of_values(rests) if rests else found["start"]
    return found, "finished jobs"


def _evidence(seen: Seen, stated: Prior) -> str:
    if seen.probe:
        return "timed steps"
    return "stated" if stated.step_s is not None or stated.training_s is not None else ""


def _checkpoint_bytes(settings: TrainStage, seen: Seen, stated: Prior) -> Span | None:
    """Of one; low for a lite one, high for a full one where the stage writes both."""
    if seen.probe.get("saved_bytes"):
        size = float(seen.probe["saved_bytes"])
        lite = size / FULL_IS if seen.probe.get("saved_kind") == "full" else size
    elif stated.checkpoint_mb is not None:
        return Span.between(stated.checkpoint_mb).times(1e6)
    elif "values_that_learn" in seen.counted:
        lite = FLOAT * float(seen.counted["values_that_learn"])
    else:
        return None
    full = FULL_IS * lite if settings.writes_full else lite
    often = settings.save_steps is None or settings.full_save_steps == settings.save_steps
    return Span(lite, full if often else lite, full)


def _disk_bytes(settings: TrainStage, saves: int | None, checkpoint: Span | None) -> Span | None:
    """While the stage runs: the checkpoints that retention keeps, the one being written, and the result."""
    if checkpoint is None or saves is None:
        return None
    kept = min(saves, settings.save_total_limit + settings.save_best_k + 1)
    fulls = min(saves, settings.save_total_limit) if settings.writes_full else 0
    result = checkpoint.low
    expected = kept * checkpoint.expected + min(fulls, 1) * checkpoint.high + result
    return Span(kept * checkpoint.low + result, expected, (kept + fulls) * checkpoint.high + result)


def remembered(costs: Sequence[StageCost], known: Facts) -> dict[str, Any]:
    """Entries of estimates.json with what jobs that have not begun are expected to take, beside what stands there."""
    new: dict[str, Any] = {}
    for cost in costs:
        terms = {name: round(span.expected, 3) for name, span in cost.times.items() if span is not None}
        for planned in cost.group.jobs:
            if planned.status != "pending" or not (terms or cost.memory):
                continue
            entry = {**known.get(planned.job.id, {}), "terms_s": terms}
            if cost.memory:
                entry["memory_mb"] = round(cost.memory.whole.expected / MEBIBYTE, 1)
                entry["peak_memory_mb"] = round(cost.memory.peak.expected / MEBIBYTE, 1)
            new[planned.job.id] = entry
    return new

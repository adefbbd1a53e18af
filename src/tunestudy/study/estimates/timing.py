"""How long jobs will take, from what has been seen: finished jobs like them, or a few timed steps.

Nothing is guessed: a job without evidence has no time, and sums that contain one say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunestudy.config.adapter import GateOptions, LowRankOptions
from tunestudy.config.components import VisionComponents
from tunestudy.config.job import Job
from tunestudy.config.stage import CheckpointSettings, LoggingSettings, OptimiserSettings, TrainStage
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.layout import StudyDir
from tunestudy.study.estimates.stated import stated_benchmarks, stated_seconds
from tunestudy.study.fingerprint import datasets_of, digest
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.state import folders_on_disk

Evidence = Literal["finished jobs", "timed steps", "what the study states"]

_NOT_SPEED = frozenset(
    {*OptimiserSettings.model_fields, *CheckpointSettings.model_fields, *LoggingSettings.model_fields}
    | {"init", "learning_rates", "early_stopping_patience", "early_stopping_threshold"}
) - {"optim", "log_gradients"}
_NOT_SPEED_OF_ADAPTER = frozenset(GateOptions.model_fields) - frozenset(LowRankOptions.model_fields) | {"lora_alpha"}
"""Settings that change what a step computes, but not how long it takes."""


@dataclass(frozen=True, kw_only=True)
class JobTime:
    """What one job is expected to take. None: no evidence."""

    train_s: float | None
    evidence: Evidence | None
    benchmark_s: float | None
    """Of all its benchmarks, from scores of this study, else what it states."""
    start_s: float = 0.0
    """Until its processes have imported all they need; 0 where no probe has measured it."""

    @property
    def seconds(self) -> float | None:
        """Without benchmarks where none of them has been scored yet."""
        return None if self.train_s is None else self.train_s + self.start_s + (self.benchmark_s or 0.0)


def speed_key(plan: Plan, job: Job, *, ranks: int, host: str) -> str:
    """Names a probe: everything that a step's time depends on, and the machine."""
    assert job.training is not None, "a model that is only evaluated takes no steps"
    stage = with_components(plan, job.training, job).model_dump(mode="json", exclude=set(_NOT_SPEED))
    if stage["adapter"]:
        stage["adapter"] = {key: value for key, value in stage["adapter"].items() if key not in _NOT_SPEED_OF_ADAPTER}
    data = {name: job.datasets[name].model_dump(mode="json") for name in datasets_of(job.training)}
    model = job.model.model_dump(mode="json", exclude={"weights"})  # nothing trains on those
    return digest({"stage": stage, "model": model, "data": data, "ranks": ranks, "host": host})[:12]


def with_components(plan: Plan, settings: TrainStage, job: Job) -> TrainStage:
    """A job's settings with the components that its model has had since an earlier stage."""
    if settings.components is not None or (before := _inherited(plan, job)) is None:
        return settings
    return settings.model_copy(update={"components": before})


def _inherited(plan: Plan, job: Job) -> VisionComponents | None:
    """Components of the model that a job goes on from; a merge has those of the first model that has any."""
    for name in job.parents[-1:] if job.merging is None else job.inputs.values():
        start = plan.by_id.get(name)
        if start is None:
            continue
        own = None if start.training is None else start.training.components
        if found := own or _inherited(plan, start):
            return found
    return None


def expected_times(plan: Plan, *, ranks: int, host: str) -> dict[str, JobTime]:
    """By job id, for every job of the plan; finished jobs of the same stage win over timed steps."""
    on_disk = folders_on_disk(plan.folder)
    results = {
        planned.job.id: read_object(plan.folder.job(planned.job.id).result_json)
        for planned in plan.jobs
        if planned.job.id in on_disk
    }
    probes = _probes(plan, ranks, host)
    measured: Training = {key: (probe_seconds(probe), "timed steps") for key, probe in probes.items()}
    measured |= {key: (seconds, "finished jobs") for key, seconds in _by_stage(plan, results).items()}
    training: dict[str, tuple[float, Evidence]] = {
        job: (seconds, "what the study states") for job, seconds in stated_seconds(plan).items()
    }
    training |= {job.id: found for job in plan.by_id.values() if (found := measured.get(alike(plan, job)))}
    scored = benchmark_seconds(plan.jobs, plan.folder, on_disk)
    start_s = max((probe["start_s"] for probe in probes.values()), default=0.0)
    said = stated_benchmarks(plan)
    return {one.job.id: _time_of(one.job, training, scored, said.get(one.job.id), start_s) for one in plan.jobs}


Alike = tuple[int, int]
"""`id` of a stage's settings, which seeds and variants share, and of the components that its model has before it."""
Training = dict[Alike, tuple[float, Evidence]]
"""Seconds of a stage and how they are known."""


def alike(plan: Plan, job: Job) -> Alike:
    """The same for jobs that take as long as each other."""
    return id(job.settings), id(_inherited(plan, job))


def _time_of(
    job: Job,
    training: Mapping[str, tuple[float, Evidence]],
    scored: Mapping[str, float],
    said: float | None,
    start_s: float,
) -> JobTime:
    known = [scored[name] for name in job.evaluations if name in scored]
    benchmark_s = sum(known) if len(known) == len(job.evaluations) else said
    if job.merging is None and (job.training is None or job.training.trains_nothing):
        evidence: Evidence | None = "finished jobs" if known else "what the study states" if benchmark_s else None
        return JobTime(train_s=0.0 if evidence else None, evidence=evidence, benchmark_s=benchmark_s, start_s=start_s)
    seconds, evidence = training.get(job.id, (None, None))
    return JobTime(train_s=seconds, evidence=evidence, benchmark_s=benchmark_s, start_s=start_s)


def _probes(plan: Plan, ranks: int, host: str) -> dict[Alike, dict[str, Any]]:
    """What is remembered of each stage."""
    if not any(plan.folder.probe("x").parent.glob("probe-*.json")):
        return {}
    stages = {alike(plan, job): job for job in plan.by_id.values() if job.training}
    names = {key: speed_key(plan, job, ranks=ranks, host=host) for key, job in stages.items()}
    found = {key: read_object(plan.folder.probe(name)) for key, name in names.items()}
    return {key: probe for key, probe in found.items() if probe}


def probe_seconds(probe: Mapping[str, Any]) -> float:
    """Of a whole stage: its set-up, all its steps, all its evaluations."""
    evaluations = (probe["evaluation_s"] or 0.0) * probe["evaluations"]
    return float(probe["setup_s"] + probe["total_steps"] * probe["step_s"] + evaluations)


def _by_stage(plan: Plan, results: Mapping[str, dict[str, Any]]) -> dict[Alike, float]:
    """Mean duration of finished jobs by the settings that they share with other seeds."""
    found: dict[Alike, list[float]] = {}
    for planned in plan.jobs:
        result = results.get(planned.job.id, {})
        duration = result.get("duration_s")
        if result.get("fingerprint") == planned.job.fingerprint and isinstance(duration, int | float):
            found.setdefault(alike(plan, planned.job), []).append(float(duration))
    return {key: sum(values) / len(values) for key, values in found.items()}


def benchmark_seconds(jobs: Sequence[PlannedJob], folder: StudyDir, on_disk: set[str]) -> dict[str, float]:
    """Mean time of each benchmark over the jobs that it has scored."""
    found: dict[str, list[float]] = {}
    for planned in jobs:
        for name in planned.job.evaluations if planned.job.id in on_disk else ():
            duration = read_object(folder.job(planned.job.id).eval_json(name)).get("duration_s")
            if isinstance(duration, int | float):
                found.setdefault(name, []).append(float(duration))
    return {name: sum(values) / len(values) for name, values in found.items()}


def training_left(planned: PlannedJob, time: JobTime) -> float | None:
    """What a job's training still takes; of one that goes on from a checkpoint, by the share of steps that are left."""
    if planned.status in ("done", "evaluate"):
        return 0.0
    return None if time.train_s is None else time.train_s * planned.share_left(planned.steps) + time.start_s


def seconds_left(planned: PlannedJob, time: JobTime) -> float | None:
    """What a job still takes: nothing when done, its benchmarks when trained."""
    if planned.status == "done":
        return 0.0
    left = training_left(planned, time)
    return None if left is None else left + (time.benchmark_s or 0.0)


def remember_estimates(plan: Plan, times: Mapping[str, JobTime], *, now: float) -> None:
    """Keep what is expected of jobs that have not begun, so that the report can hold it against the truth."""
    known = read_object(plan.folder.estimates)
    waiting = {planned.job.id for planned in plan.jobs if planned.status == "pending"}
    new = {
        name: {**known.get(name, {}), "train_s": round(time.train_s, 3), "evidence": time.evidence, "t": now}
        for name, time in times.items()
        if name in waiting and time.train_s is not None and time.evidence
    }
    if new:
        write_json(plan.folder.estimates, {**known, **new})

"""What every variant cost, and what sharing stages saved."""

from dataclasses import dataclass

from tunestudy.report.facts import JobFacts, StudyFacts, Training, mean
from tunestudy.report.lineage import is_merge


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Means per seed over the whole path of a variant. None: not recorded (yet)."""

    variant: str
    seeds: int
    """How many seeds have all their stages."""
    duration_s: float | None
    own_s: float | None
    """Without the stages that other variants use too."""
    eval_s: float | None
    """Of `duration_s`: evaluation on held-out rows."""
    save_s: float | None
    """Of `duration_s`: what training waited for checkpoints, which are written beside it."""
    tokens: float | None
    target_tokens: float | None
    steps: float | None
    tokens_per_s: float | None
    """Of the last stage."""
    peak_memory_mb: float | None
    trainable_params: float | None
    """Of the last stage, as are the next two."""
    effective_params: float | None
    total_params: float | None
    flops: float | None
    """Training operations of one trial over all stages, as the jobs estimate them per token."""


def costs(facts: StudyFacts) -> list[Cost]:
    """One row per variant, in the study's order."""
    return [_cost(facts, variant) for variant in facts.variants]


def _cost(facts: StudyFacts, variant: str) -> Cost:
    paths = [facts.trial(variant, seed) for seed in facts.seeds]
    full = [path for path in paths if len(path) == len(facts.stages_of(variant)) and all(_ended(job) for job in path)]
    last = [path[-1].training for path in full]

    def of_last(name: str) -> float | None:
        return mean([getattr(training, name) for training in last if training])

    return Cost(
        variant=variant,
        seeds=len(full),
        duration_s=mean([_total(path, "duration_s") for path in full]),
        own_s=mean([_total([job for job in path if len(job.variants) == 1], "duration_s") for path in full]),
        eval_s=mean([_total(path, "eval_s") for path in full]),
        save_s=mean([_total(path, "save_s") for path in full]),
        tokens=mean([_total(path, "tokens") for path in full]),
        target_tokens=mean([_total(path, "target_tokens") for path in full]),
        steps=mean([_total(path, "steps") for path in full]),
        tokens_per_s=of_last("tokens_per_s"),
        peak_memory_mb=max((peak for path in full if (peak := _peak(path)) is not None), default=None),
        trainable_params=of_last("trainable_params"),
        effective_params=of_last("effective_params"),
        total_params=of_last("total_params"),
        flops=mean([_flops(path) for path in full]),
    )


_TRAINED = ("tokens", "target_tokens", "steps", "eval_s", "save_s")


def _ended(job: JobFacts) -> bool:
    return job.training is not None or (job.settings is None and job.status == "done")


def _trainings(path: list[JobFacts]) -> list[Training]:
    return [job.training for job in path if job.training]


def _total(path: list[JobFacts], name: str) -> float | None:
    """Over all jobs of a trial, those that went into a merge among them; a merge itself has no steps and no tokens."""
    known = [getattr(job.training, name) for job in path if job.training and not (is_merge(job) and name in _TRAINED)]
    return None if None in known else float(sum(known))


def _peak(path: list[JobFacts]) -> float | None:
    return max((t.peak_memory_mb for t in _trainings(path) if t.peak_memory_mb is not None), default=None)


def _flops(path: list[JobFacts]) -> float | None:
    known = [t.flops_per_token * t.tokens for t in _trainings(path) if t.flops_per_token and t.tokens]
    return sum(known) if known else None


@dataclass(frozen=True, kw_only=True)
class Total:
    """The whole study; every job counts once."""

    job_s: float
    shared_s: float
    """Of jobs that several variants use."""
    saved_s: float
    """What those would have cost again, had every variant run its own."""
    first_start: float | None
    last_end: float | None

    @property
    def wall_s(self) -> float | None:
        return None if self.first_start is None or self.last_end is None else self.last_end - self.first_start


def total(facts: StudyFacts) -> Total:
    """Sums over jobs, and the span from the first start to the last end."""
    trained = [(job, job.training) for job in facts.jobs if job.training]
    shared = [(job, t.duration_s or 0.0) for job, t in trained if len(job.variants) > 1]
    starts = [t.started_at for _, t in trained if t.started_at is not None]
    ends = [t.finished_at for _, t in trained if t.finished_at is not None]
    times = [float(event["t"]) for event in facts.events if isinstance(event.get("t"), int | float)]
    return Total(
        job_s=sum(t.duration_s or 0.0 for _, t in trained),
        shared_s=sum(seconds for _, seconds in shared),
        saved_s=sum(seconds * (len(job.variants) - 1) for job, seconds in shared),
        first_start=min([*starts, *times], default=None),
        last_end=max([*ends, *times], default=None) if facts.state.startswith("finished") else max(ends, default=None),
    )

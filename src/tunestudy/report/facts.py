"""What a run directory says, as typed records. `collect.py` fills them; all else in this room reads only these."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "evaluate", "running", "failed", "interrupted", "pending"]
Settings = dict[str, Any]
BASE_MODEL = "base_model"
"""Stage name of a job that scores the study's model as it is."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One benchmark's result of one job: `eval/<benchmark>.json`."""

    benchmark: str
    kind: str
    dataset: str
    version: str
    rows: int | None
    primary: str
    metrics: dict[str, float]
    rows_sha256: str | None
    duration_s: float | None
    predictions: Path
    title: str = ""
    compat: str = ""
    """By which way of computing it the score is reported."""
    aggregate: str = "mean"
    """`all_of_group`: a group of rows counts once, as its smallest score."""
    counts: dict[str, int] = field(default_factory=dict)
    """`unparsed`, `undecodable`, `unjudged`: rows that were counted as wrong for a reason; only those that occurred."""
    categories: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Column → value → (units, mean score)."""
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    """By metric, where the benchmark told it; None: neither way."""
    overlap: Settings = field(default_factory=dict)
    """overlap.json, unless it is of an older definition."""


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best checkpoint as the stage itself judged it."""

    step: int
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """`result.json`: what a finished stage cost and reached. Durations sum over attempts. None: not recorded."""

    started_at: float | None
    finished_at: float | None
    duration_s: float | None
    train_s: float | None
    eval_s: float | None
    save_s: float | None
    steps: int | None
    epochs: float | None
    tokens: int | None
    target_tokens: int | None
    samples: int | None
    final_train_loss: float | None
    best: Best | None
    trainable_params: int | None
    effective_params: int | None
    total_params: int | None
    peak_memory_mb: float | None
    flops_per_token: float | None
    world_size: int | None
    micro_batch: int | None
    accumulation: int | None
    effective_batch_size: int | None
    roles: list[Settings]
    eval_ids_sha256: str | None
    resumed_from: list[int]
    sparsity: float | None = None
    """Share of gates at zero at the end; None without gates, as is the next."""
    gates: int | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of training, evaluation and saving left out."""
        return self.tokens / self.train_s if self.tokens and self.train_s else None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt ended badly."""

    attempt: int | None
    kind: str
    message: str
    where: str
    step: int | None
    signal: str = ""
    exit_code: int | None = None
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A sealed `checkpoint-<step>/` that is still on disk."""

    name: str
    step: int
    kind: str
    metrics: dict[str, float]
    size_bytes: int
    marks: tuple[str, ...]
    """`best`, `last`."""


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """Means and peaks of gpu.csv over all its devices."""

    mean_utilisation_percent: float | None
    mean_memory_mb: float | None
    peak_memory_mb: float | None
    devices: int


Curve = dict[str, list[float]]
"""Columns of a CSV log that are numbers in every kept row; `step` is always there."""
OVERALL = "overall"
"""In place of a module's name: all of them together."""


@dataclass(frozen=True, kw_only=True)
class GateLog:
    """What the gates of a mixture of experts did, by step; NaN where it is not known."""

    steps: list[float]
    entropy: list[float]
    """1: all experts alike; 0: one alone."""
    balance: list[float]
    usage: dict[str, list[float]]
    """Share of the gates that each expert had."""


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """One directory under `jobs/`, or a planned job that has none yet."""

    id: str
    stage: str
    variants: tuple[str, ...]
    seed: int
    parents: tuple[str, ...]
    """Jobs whose results this one starts from, nearest last."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Jobs whose results are read beside the start, by name: what is merged, or made experts of."""
    status: Status
    planned_steps: int | None = None
    planned_tokens: int | None = None
    expected_s: float | None = None
    """What its training was expected to take before it began."""
    expected: Settings = field(default_factory=dict)
    """All that was expected then: its entry of estimates.json."""
    settings: Settings | None = None
    """None: the model is only evaluated."""
    training: Training | None = None
    failure: Failure | None = None
    progress: Settings = field(default_factory=dict)
    data: Settings = field(default_factory=dict)
    environment: Settings = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    """Benchmarks that this job is to be scored on."""
    train_log: Curve = field(default_factory=dict)
    eval_log: Curve = field(default_factory=dict)
    sparsity_log: Curve = field(default_factory=dict)
    """`overall` and a column per gated module; empty without gates."""
    gate_log: dict[str, GateLog] = field(default_factory=dict)
    """Of a mixture of experts: by gated block, and `overall`."""
    experts: Settings = field(default_factory=dict)
    """experts.json: where a mixture's experts come from, and how much of a difference their factors hold."""
    merge_report: Settings = field(default_factory=dict)
    """merge_report.json, filled up by what result.json says of the merge."""
    score_log: Curve = field(default_factory=dict)
    """A column per benchmark that was scored at checkpoints; the result itself is the last step."""
    gpu: GpuUse | None = None
    checkpoints: list[Checkpoint] = field(default_factory=list)
    has_model: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the jobs that must be done before this one."""
        return tuple(dict.fromkeys((*self.parents, *self.inputs.values())))

    @property
    def missing_scores(self) -> tuple[str, ...]:
        return tuple(name for name in self.wanted if name not in self.scores)


@dataclass(frozen=True, kw_only=True)
class VariantFacts:
    """One row of the table, as the study defines it."""

    name: str
    description: str
    stages: dict[str, Settings]
    intends: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Everything the report knows."""

    name: str
    description: str
    seeds: tuple[int, ...]
    variants: dict[str, VariantFacts]
    benchmarks: dict[str, Settings]
    model: Settings
    report: Settings
    study_text: str
    jobs: list[JobFacts]
    """Those of the plan, in its order."""
    orphans: list[str]
    """Job directories that the plan no longer names."""
    plan_warnings: list[str]
    events: list[Settings]
    unreadable: list[str]
    """Files that exist but could not be read, and why."""
    gathered_at: float
    packing: Settings = field(default_factory=dict)
    """packing.json: when and where each job was to run."""
    accounting: Settings = field(default_factory=dict)
    """What SLURM's accounting told of submissions, by their number."""

    @property
    def baseline(self) -> str | None:
        """The variant others are compared with: the one that the study names, else the first."""
        named = self.report.get("baseline")
        if isinstance(named, str) and named in self.variants:
            return named
        return next(iter(self.variants), None)

    @property
    def one_start(self) -> bool:
        """Whether all seeds start from the same weights: pretrained ones, or random ones of a seed of their own."""
        return not self.model.get("architecture") or self.model.get("weights_seed") is not None

    @cached_property
    def _trials(self) -> dict[tuple[str, str, int], JobFacts]:
        found = {(variant, job.stage, job.seed): job for job in self.jobs for variant in job.variants}
        if self.one_start:  # scored once for all seeds
            once = [job for job in self.jobs if job.stage == BASE_MODEL]
            for job, variant, seed in product(once, self.variants, self.seeds):
                if variant in job.variants:
                    found.setdefault((variant, BASE_MODEL, seed), job)
        return found

    @property
    def places(self) -> dict[str, int]:
        """Place of each variant for its colour: the baseline 0, the others from 1 in the study's order."""
        others = [variant for variant in self.variants if variant != self.baseline]
        return {variant: others.index(variant) + 1 if variant in others else 0 for variant in self.variants}

    def settings_of(self, job: JobFacts) -> Settings:
        """A job's settings; of one that has no directory yet, those of its stage. Empty where it is only evaluated."""
        if job.settings is not None:
            return job.settings
        return next(
            (self.variants[name].stages.get(job.stage, {}) for name in job.variants if name in self.variants), {}
        )

    def adapter_of(self, variant: str) -> Settings:
        """Settings of the last stage's adapter; empty without one."""
        last = self.variants[variant].stages.get(self.stages_of(variant)[-1])
        adapter = last.get("adapter") if isinstance(last, dict) else None
        return adapter if isinstance(adapter, dict) else {}

    def is_gated(self, variant: str) -> bool:
        """Whether the variant's last stage has gates."""
        return "target_sparsity" in self.adapter_of(variant)

    def stages_of(self, variant: str) -> list[str]:
        """Stage names in order; the untouched model has the stage `base_model`."""
        return list(self.variants[variant].stages) or [BASE_MODEL]

    def trial(self, variant: str, seed: int) -> list[JobFacts]:
        """The jobs of a variant at one seed that are known, in stage order."""
        found = [self._trials.get((variant, stage, seed)) for stage in self.stages_of(variant)]
        return [job for job in found if job is not None]

    def last_job(self, variant: str, seed: int) -> JobFacts | None:
        """The job whose result is this trial's model."""
        return self._trials.get((variant, self.stages_of(variant)[-1], seed))

    def last_jobs(self, variant: str) -> list[JobFacts]:
        """The last job of every seed that has one."""
        found = [job for seed in self.seeds if (job := self.last_job(variant, seed))]
        return list({job.id: job for job in found}.values())

    def count(self, *statuses: Status) -> int:
        return sum(job.status in statuses for job in self.jobs)

    def attempts(self, job: JobFacts) -> int:
        """How often a job was started, by the launcher's journal."""
        return sum(event.get("event") == "job_started" and event.get("job") == job.id for event in self.events)

    @property
    def state(self) -> str:
        """`finished`, `finished with failures`, `running`, `incomplete` or `not started`."""
        if self.jobs and self.count("done") == len(self.jobs):
            return "finished"
        if self.count("running"):
            return "running"
        if self.count("failed") and not self.count("pending", "evaluate", "interrupted"):
            return "finished with failures"
        return "incomplete" if self.count("done", "evaluate", "failed", "interrupted") else "not started"


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

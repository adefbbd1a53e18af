"""Unique jobs from trials: those that begin alike meet in the same ones.

A job's id is its fingerprint's beginning, so two trials whose first stages agree in everything that decides a result
(settings, seed, data, model, parents) ask for the same id, and get one job.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.data import AnyDataset
from tunestudy.config.job import Evaluation, Job
from tunestudy.config.merge import BASE, STUDY_MODEL, MergeStage, Weights
from tunestudy.config.model import ModelConfig
from tunestudy.config.order import ScoreOrder
from tunestudy.config.stage import AnyStage, TrainStage, inputs_of
from tunestudy.config.study import Study
from tunestudy.study.fingerprint import (
    SHOWN_DIGITS,
    benchmark_digest,
    datasets_of,
    digest,
    evaluation_fingerprint,
    job_fingerprint,
    significant,
)
from tunestudy.study.identity import Identities

BASE_MODEL = "base_model"
"""The stage name of a job that trains nothing: the study's model, only evaluated."""

SCORER = "order/scorer"
"""Stands among a stage's data sets for the model that orders them; no data set can be called so."""


@dataclass
class _Draft:
    """A job while trials are still joining it."""

    id: str
    stage: str
    fingerprint: str
    seed: int
    parents: tuple[str, ...]
    settings: AnyStage | None
    inputs: dict[str, str] = field(default_factory=dict)
    variants: dict[str, None] = field(default_factory=dict)
    """In the order of joining; a dict, because thousands may share a job."""
    ends_a_variant: bool = False


class Graph:
    """Jobs by id; trials that begin alike meet in the same ones."""

    def __init__(self, study: Study, identities: Identities, base_dir: str, *, offline: bool = False) -> None:
        self._study, self._identities = study, identities
        self._template = Job(
            id="",
            stage="",
            fingerprint="0" * 64,
            seed=0,
            variants=(),
            model=study.model,
            settings=None,
            base_dir=base_dir,
            offline=offline,
        )
        self._drafts: dict[str, _Draft] = {}
        self._known: dict[tuple[str, int, int, tuple[str, ...]], _Draft] = {}
        self._facts: dict[int, _StageFacts] = {}
        self._read: dict[tuple[int, bool], dict[str, AnyDataset]] = {}
        self._benchmarks = {name: self._benchmark(benchmark) for name, benchmark in study.benchmarks.items()}
        """Each with its own digest in place of the fingerprint that a job's scores will have."""

    def _benchmark(self, benchmark: AnyBenchmark) -> Evaluation:
        data = self._identities.of_benchmark(benchmark)
        return Evaluation(benchmark=benchmark, fingerprint=benchmark_digest(benchmark, data))

    def add_trial(self, variant: str, seed: int) -> None:
        """Join or make the job of each stage of one variant at one seed."""
        stages = self._study.variants[variant].stages
        job: _Draft | None = None
        done: dict[str, _Draft] = {}
        for stage, settings in stages.items():
            job = done[stage] = self._stage_job(stage, settings, seed, _start(settings, job, done), done)
            job.variants[variant] = None
        if job is None:
            job = self._base_model_job(seed)
            job.variants[variant] = None
        job.ends_a_variant = True

    def jobs(self) -> list[Job]:
        """The finished jobs, parents before children."""
        return [self._finished(draft) for draft in self._drafts.values()]

    def _stage_job(
        self, stage: str, settings: AnyStage, seed: int, start: _Draft | None, done: Mapping[str, _Draft]
    ) -> _Draft:
        """`start`: the job that it goes on from; `done`: those of the trial's earlier stages."""
        given = self._facts_of(settings).inputs
        inputs = {name: done[one.stage].id for name, one in given.items() if one.stage not in (None, STUDY_MODEL)}
        known = (stage, id(settings), seed, (start.id if start else "", *inputs.values()))
        if known not in self._known:
            self._known[known] = self._new_job(stage, settings, seed, start, inputs)
        return self._known[known]

    def _new_job(
        self, stage: str, settings: AnyStage, seed: int, previous: _Draft | None, inputs: dict[str, str]
    ) -> _Draft:
        facts = self._facts_of(settings)
        parents = _lineage(settings, previous)
        fingerprint = job_fingerprint(
            settings=facts.digest,
            seed=seed,
            data=facts.data,
            model=self._identities.model_digest,
            parents=[self._drafts[parent].fingerprint for parent in parents],
            inputs={name: self._identity_of(name, one, inputs) for name, one in facts.inputs.items()},
        )
        return self._joined(_Draft(_job_id(stage, fingerprint), stage, fingerprint, seed, parents, settings, inputs))

    def _identity_of(self, name: str, weights: Weights, inputs: Mapping[str, str]) -> str:
        """What tells an input apart: a job's fingerprint, a folder's digest, or that it is the study's model."""
        if weights.path is not None:
            return self._identities.of_path(weights.path)
        return self._drafts[inputs[name]].fingerprint if name in inputs else STUDY_MODEL

    def _base_model_job(self, seed: int) -> _Draft:
        """Pretrained weights are the same at every seed, so they are scored once; random ones may be drawn by it."""
        random = self._study.model.architecture is not None and self._study.model.weights_seed is None
        fingerprint = job_fingerprint(
            settings=None, seed=seed if random else None, data={}, model=self._identities.model_digest, parents=[]
        )
        return self._joined(_Draft(_job_id(BASE_MODEL, fingerprint), BASE_MODEL, fingerprint, seed, (), None))

    def _joined(self, draft: _Draft) -> _Draft:
        """The job of that id: an equal one of an earlier trial, or this."""
        job = self._drafts.setdefault(draft.id, draft)
        assert job.fingerprint == draft.fingerprint, "two jobs whose fingerprints share 12 digits"
        return job

    def _finished(self, draft: _Draft) -> Job:
        """A copy of a job made once: its parts are validated, and doing so ten thousand times would take seconds."""
        return self._template.model_copy(
            update={
                "id": draft.id,
                "stage": draft.stage,
                "fingerprint": draft.fingerprint,
                "seed": draft.seed,
                "variants": tuple(draft.variants),
                "parents": draft.parents,
                "inputs": draft.inputs,
                "settings": draft.settings,
                "datasets": self._datasets(draft),
                "evaluations": self._evaluations(draft.fingerprint) if draft.ends_a_variant else {},
            }
        )

    def _datasets(self, draft: _Draft) -> dict[str, AnyDataset]:
        """Those that a job or its evaluations name; jobs of the same settings share one mapping."""
        key = (id(draft.settings), draft.ends_a_variant)
        if key not in self._read:
            names = set(self._facts_of(draft.settings).data) if draft.settings else set()
            if draft.ends_a_variant:
                names |= {_dataset_name(benchmark.dataset) for benchmark in self._study.benchmarks.values()}
            self._read[key] = {name: one for name, one in self._study.datasets.items() if name in names}
        return self._read[key]

    def _evaluations(self, job: str) -> dict[str, Evaluation]:
        return {
            name: evaluation.model_copy(update={"fingerprint": evaluation_fingerprint(job, evaluation.fingerprint)})
            for name, evaluation in self._benchmarks.items()
        }

    def _facts_of(self, settings: AnyStage) -> "_StageFacts":
        """Worked out once per object: trials share their settings' objects."""
        if id(settings) not in self._facts:
            names = datasets_of(settings) if isinstance(settings, TrainStage) else ()
            data = {name: self._identities.dataset_digests[name] for name in names}
            if (scorer := _scorer(settings)) is not None:
                data[SCORER] = digest(self._identities.model_of(scorer))
            self._facts[id(settings)] = _StageFacts(digest(significant(settings)), data, inputs_of(settings))
        return self._facts[id(settings)]


@dataclass(frozen=True)
class _StageFacts:
    """What a stage adds to fingerprints: digests of its settings and of each data set that it reads; and its inputs."""

    digest: str
    data: dict[str, str]
    inputs: Mapping[str, Weights]


def _scorer(settings: AnyStage) -> ModelConfig | None:
    """The model of its own that orders a stage's samples, if one does."""
    order = settings.order if isinstance(settings, TrainStage) else None
    return order.scorer if isinstance(order, ScoreOrder) and isinstance(order.scorer, ModelConfig) else None


def _start(settings: AnyStage, previous: _Draft | None, done: Mapping[str, _Draft]) -> _Draft | None:
    """The job that a stage goes on from: the one before it, or that of the stage which `after` names."""
    after = settings.after if isinstance(settings, TrainStage) else None
    return previous if after is None else done[after]


def _lineage(settings: AnyStage, previous: _Draft | None) -> tuple[str, ...]:
    """Ids of the jobs whose results a stage starts from: back to the last one that left a whole model, nearest last."""
    if previous is None or isinstance(settings, MergeStage) or settings.init == "base":
        return ()
    assert previous.settings is not None
    if isinstance(previous.settings, MergeStage):
        below = tuple(previous.inputs[name] for name in (BASE,) if name in previous.inputs)
        return (*below, previous.id) if previous.settings.into == "adapter" else (previous.id,)
    partial = previous.settings.adapter is not None or previous.settings.world is not None
    below = previous.parents if partial else ()
    return (*below, previous.id)


def _dataset_name(reference: str) -> str:
    """`rotated@held_out` → `rotated`."""
    return reference.partition("@")[0]


def _job_id(stage: str, fingerprint: str) -> str:
    return f"{stage}-{fingerprint[:SHOWN_DIGITS]}"

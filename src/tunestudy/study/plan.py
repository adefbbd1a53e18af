"""The plan: variants × seeds × stages become a graph of unique jobs.

A trial is one variant at one seed. Its stages run one after the other, and each is a job named by the fingerprint of
everything that decides its result. Two trials that begin alike therefore share their first jobs: the shared stage is
trained once per seed, however many variants go on from it.

    plan = make_plan(load_study(Path("study.yaml")), Path("results"))

Making a plan writes nothing but a cache of file hashes, and never imports torch.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestudy.config.benchmark import AnyBenchmark
from tunestudy.config.job import Evaluation, Job
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.records.layout import StudyDir
from tunestudy.study.changes import Change, Orphan, explain_changes, find_orphans
from tunestudy.study.estimate import NOTHING, Estimate, Estimator
from tunestudy.study.fingerprint import (
    SHOWN_DIGITS,
    benchmark_digest,
    datasets_of,
    digest,
    evaluation_fingerprint,
    job_fingerprint,
    significant,
)
from tunestudy.study.footing import footing_warnings
from tunestudy.study.identity import Identities
from tunestudy.study.load import LoadedStudy
from tunestudy.study.state import Status, folders_on_disk, job_status

BASE_MODEL = "base_model"
"""The stage name of a job that trains nothing: the study's model, only evaluated."""


@dataclass(frozen=True)
class PlannedJob:
    """A job, how far it is, and what it will cost."""

    job: Job
    status: Status
    estimate: Estimate

    @property
    def steps(self) -> int | None:
        return self.estimate.steps.value if self.estimate.steps else None

    @property
    def tokens(self) -> int | None:
        return self.estimate.tokens.value if self.estimate.tokens else None

    @property
    def checkpoints(self) -> int | None:
        return self.estimate.checkpoints

    @property
    def reused_by(self) -> tuple[str, ...]:
        """The variants that share this job beyond the first; empty when only one has it."""
        return self.job.variants[1:]

    def as_json(self) -> dict[str, Any]:
        job = self.job
        return {
            "id": job.id,
            "stage": job.stage,
            "variants": list(job.variants),
            "seed": job.seed,
            "parents": list(job.parents),
            "fingerprint": job.fingerprint,
            "status": self.status,
            "steps": self.steps,
            "tokens": self.tokens,
            "checkpoints": self.checkpoints,
        }


@dataclass(frozen=True)
class Plan:
    """Every job of a study in an order in which they can run, and what has changed since the last plan."""

    study: Study
    folder: StudyDir
    jobs: list[PlannedJob]
    inputs: dict[str, Any]
    """Identities of data sets and model, kept so that the next plan can name what changed."""
    changes: list[Change] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def totals(self) -> dict[str, Any]:
        """Sums over all jobs, and over those that are still to do; a sum with an unknown part is None."""
        todo = [planned for planned in self.jobs if planned.status not in ("done", "evaluate")]
        stages = sum(max(1, len(variant.stages)) for variant in self.study.variants.values())
        return {
            "jobs": len(self.jobs),
            "jobs_to_do": sum(planned.status != "done" for planned in self.jobs),
            "trials": len(self.study.variants) * len(self.study.seeds),
            "stages_without_reuse": stages * len(self.study.seeds),
            "steps": _sum([planned.steps for planned in self.jobs]),
            "steps_to_do": _sum([planned.steps for planned in todo]),
            "tokens": _sum([planned.tokens for planned in self.jobs]),
            "tokens_to_do": _sum([planned.tokens for planned in todo]),
            "checkpoints": _sum([planned.checkpoints for planned in self.jobs]),
        }

    def as_json(self) -> dict[str, Any]:
        """What `plan --json` prints and `plan.json` keeps."""
        return {
            "study": self.study.study,
            "jobs": [planned.as_json() for planned in self.jobs],
            "totals": self.totals(),
            "orphans": [orphan.as_json() for orphan in self.orphans],
            "changes": [change.as_json() for change in self.changes],
            "warnings": self.warnings,
            "inputs": self.inputs,
        }


def make_plan(loaded: LoadedStudy, results: Path) -> Plan:
    """The plan of a study whose results lie under `results`.

    Jobs come parents first; among those free to run, by priority, then seed (so that the first seeds compare all
    variants early), then as the file names the variants.
    """
    study = loaded.study
    folder = StudyDir(results / study.study)
    identities = Identities(study, loaded.path.parent, folder)
    graph = _Graph(study, identities, _relative(loaded.path.parent, folder))
    for variant, seed in trials_in_order(study):
        graph.add_trial(variant, seed)
    jobs = graph.jobs()
    identities.remember()
    return Plan(
        study=study,
        folder=folder,
        jobs=_with_status(jobs, study, loaded.path.parent, folder),
        inputs={"datasets": identities.datasets, "model": identities.model},
        changes=explain_changes(jobs, folder, identities),
        orphans=find_orphans(jobs, folder),
        warnings=[*loaded.warnings, *footing_warnings(study), *_unpinned(identities)],
    )


@dataclass
class _Draft:
    """A job while trials are still joining it."""

    id: str
    stage: str
    fingerprint: str
    seed: int
    parents: tuple[str, ...]
    settings: TrainStage | None
    variants: dict[str, None] = field(default_factory=dict)
    """In the order of joining; a dict, because thousands may share a job."""
    ends_a_variant: bool = False


class _Graph:
    """Jobs by id; trials that begin alike meet in the same ones."""

    def __init__(self, study: Study, identities: Identities, base_dir: str) -> None:
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
        )
        self._drafts: dict[str, _Draft] = {}
        self._known: dict[tuple[str, int, int, str], _Draft] = {}
        self._facts: dict[int, _StageFacts] = {}
        self._benchmarks = {name: self._benchmark(benchmark) for name, benchmark in study.benchmarks.items()}
        """Each with its own digest in place of the fingerprint that a job's scores will have."""

    def _benchmark(self, benchmark: AnyBenchmark) -> Evaluation:
        data = self._identities.dataset_digests[_dataset_name(benchmark.dataset)]
        return Evaluation(benchmark=benchmark, fingerprint=benchmark_digest(benchmark, data))

    def add_trial(self, variant: str, seed: int) -> None:
        """Join or make the job of each stage of one variant at one seed."""
        stages = self._study.variants[variant].stages
        job: _Draft | None = None
        for stage, settings in stages.items():
            job = self._training_job(stage, settings, seed, job)
            job.variants[variant] = None
        if job is None:
            job = self._base_model_job(seed)
            job.variants[variant] = None
        job.ends_a_variant = True

    def jobs(self) -> list[Job]:
        """The finished jobs, parents before children."""
        return [self._finished(draft) for draft in self._drafts.values()]

    def _training_job(self, stage: str, settings: TrainStage, seed: int, previous: _Draft | None) -> _Draft:
        known = (stage, id(settings), seed, previous.id if previous else "")
        if known not in self._known:
            self._known[known] = self._new_job(stage, settings, seed, previous)
        return self._known[known]

    def _new_job(self, stage: str, settings: TrainStage, seed: int, previous: _Draft | None) -> _Draft:
        facts = self._facts_of(settings)
        parents = _lineage(settings, previous)
        fingerprint = job_fingerprint(
            settings=facts.digest,
            seed=seed,
            data=facts.data,
            model=self._identities.model_digest,
            parents=[self._drafts[parent].fingerprint for parent in parents],
        )
        return self._joined(_Draft(_job_id(stage, fingerprint), stage, fingerprint, seed, parents, settings))

    def _base_model_job(self, seed: int) -> _Draft:
        """Pretrained weights are the same at every seed, so they are scored once; random ones are drawn by the seed."""
        random = self._study.model.architecture is not None
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
        names = set(self._facts_of(draft.settings).data) if draft.settings else set()
        if draft.ends_a_variant:
            names |= {_dataset_name(benchmark.dataset) for benchmark in self._study.benchmarks.values()}
        return self._template.model_copy(
            update={
                "id": draft.id,
                "stage": draft.stage,
                "fingerprint": draft.fingerprint,
                "seed": draft.seed,
                "variants": tuple(draft.variants),
                "parents": draft.parents,
                "settings": draft.settings,
                "datasets": {name: dataset for name, dataset in self._study.datasets.items() if name in names},
                "evaluations": self._evaluations(draft.fingerprint) if draft.ends_a_variant else {},
            }
        )

    def _evaluations(self, job: str) -> dict[str, Evaluation]:
        return {
            name: evaluation.model_copy(update={"fingerprint": evaluation_fingerprint(job, evaluation.fingerprint)})
            for name, evaluation in self._benchmarks.items()
        }

    def _facts_of(self, settings: TrainStage) -> "_StageFacts":
        """Worked out once per object: trials share their settings' objects."""
        if id(settings) not in self._facts:
            data = {name: self._identities.dataset_digests[name] for name in datasets_of(settings)}
            self._facts[id(settings)] = _StageFacts(digest(significant(settings)), data)
        return self._facts[id(settings)]


@dataclass(frozen=True)
class _StageFacts:
    """What a stage adds to a fingerprint: the digest of its settings, and of each data set that it reads."""

    digest: str
    data: dict[str, str]


def _lineage(settings: TrainStage, previous: _Draft | None) -> tuple[str, ...]:
    """Ids of the jobs whose results a stage starts from: back to the last one that left a whole model, nearest last."""
    if previous is None or settings.init == "base":
        return ()
    assert previous.settings is not None
    below = previous.parents if previous.settings.adapter is not None else ()
    return (*below, previous.id)


def trials_in_order(study: Study) -> list[tuple[str, int]]:
    """Variant and seed of every trial, in the order in which they should run."""
    by_priority: dict[int, list[str]] = {}
    for name, variant in study.variants.items():
        by_priority.setdefault(variant.priority, []).append(name)
    return [
        (name, seed) for rank in sorted(by_priority, reverse=True) for seed in study.seeds for name in by_priority[rank]
    ]


def _with_status(jobs: Sequence[Job], study: Study, base: Path, folder: StudyDir) -> list[PlannedJob]:
    on_disk = folders_on_disk(folder)
    estimator = Estimator(study, base, folder)
    estimates: dict[int, Estimate] = {}
    planned = []
    for job in jobs:
        if id(job.settings) not in estimates:
            estimates[id(job.settings)] = estimator.of(job.settings) if job.settings else NOTHING
        status = job_status(folder.job(job.id), job) if job.id in on_disk else "pending"
        planned.append(PlannedJob(job, status, estimates[id(job.settings)]))
    return planned


def _dataset_name(reference: str) -> str:
    """`rotated@held_out` → `rotated`."""
    return reference.partition("@")[0]


def _job_id(stage: str, fingerprint: str) -> str:
    return f"{stage}-{fingerprint[:SHOWN_DIGITS]}"


def _relative(base: Path, folder: StudyDir) -> str:
    """From any job's directory to the study file's folder, so that results name no path of this machine."""
    return os.path.relpath(base.resolve(), folder.job("any").root.resolve())


def _unpinned(identities: Identities) -> list[str]:
    return [f"`{name}` is not pinned to a revision: what the hub serves may change" for name in identities.unpinned]


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value for value in values if value)

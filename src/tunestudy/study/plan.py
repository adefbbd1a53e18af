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
from functools import cached_property
from pathlib import Path
from typing import Any

from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir
from tunestudy.study.benchmarks import curve_warnings
from tunestudy.study.changes import Change, Orphan, explain_changes, find_orphans
from tunestudy.study.estimates.agreement import require_agreement
from tunestudy.study.estimates.steps import NO_STEPS, UNKNOWN, Estimate, Estimator, Measured
from tunestudy.study.fingerprint import canonical
from tunestudy.study.footing import footing_warnings, parts_warnings, seen_rows_warnings
from tunestudy.study.graph import Graph
from tunestudy.study.identity import Identities
from tunestudy.study.load import LoadedStudy
from tunestudy.study.locked import image_warnings
from tunestudy.study.merges import merge_warnings
from tunestudy.study.sharing import check_sharing
from tunestudy.study.shrink import Forecast, forecast
from tunestudy.study.shrink import warnings as shrink_warnings
from tunestudy.study.state import Status, folders_on_disk, status_at, steps_kept
from tunestudy.study.unread import unread_warnings


@dataclass(frozen=True)
class PlannedJob:
    """A job, how far it is, and what it will cost."""

    job: Job
    status: Status
    estimate: Estimate
    not_final: tuple[str, ...] = ()
    """What it reads that `fetch` has still to pin, data sets by their names and the model by its id: it has another
    fingerprint then."""
    steps_kept: int = 0
    """Of a job that has begun: those before the checkpoint that it goes on from."""

    def share_left(self, steps: int | None) -> float:
        """How much of `steps`, as many as it takes in all, is still to do."""
        return max(0.0, 1 - self.steps_kept / steps) if steps else 1.0

    @property
    def steps(self) -> int | None:
        return self.estimate.steps.value if self.estimate.steps else None

    @property
    def tokens(self) -> int | None:
        return self.estimate.tokens.value if self.estimate.tokens else None

    @property
    def checkpoints(self) -> int | None:
        return self.estimate.checkpoints

    def as_json(self) -> dict[str, Any]:
        job = self.job
        return {
            "id": job.id,
            "stage": job.stage,
            "variants": list(job.variants),
            "seed": job.seed,
            "parents": list(job.needs),
            "fingerprint": job.fingerprint,
            "status": self.status,
            "steps": self.steps,
            "tokens": self.tokens,
            "checkpoints": self.checkpoints,
            "not_final": list(self.not_final),
        }


@dataclass(frozen=True)
class GatedStage:
    """What the proximal steps of a stage will do to its gates, foreseen."""

    stage: str
    variants: tuple[str, ...]
    forecast: Forecast

    def as_json(self) -> dict[str, Any]:
        return {"stage": self.stage, "variants": list(self.variants), **self.forecast.as_json()}


@dataclass(frozen=True)
class Plan:
    """Every job of a study in an order in which they can run, and what has changed since the last plan."""

    study: Study
    folder: StudyDir
    jobs: list[PlannedJob]
    inputs: dict[str, Any]
    """Identities of data sets and model, kept so that the next plan can name what changed."""
    gates: list[GatedStage] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    orphans: list[Orphan] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def by_id(self) -> dict[str, Job]:
        """Every job by its id."""
        return {planned.job.id: planned.job for planned in self.jobs}

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
            "steps_to_do": _sum([_share(one.steps, one) for one in todo]),
            "tokens": _sum([planned.tokens for planned in self.jobs]),
            "tokens_to_do": _sum([_share(one.tokens, one) for one in todo]),
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
            "gates": [gated.as_json() for gated in self.gates],
            "inputs": self.inputs,
        }


def make_plan(loaded: LoadedStudy, results: Path, *, brief: bool = False) -> Plan:
    """The plan of a study whose results lie under `results`. `brief`: its jobs and how far they are, alone.

    Jobs come parents first; among those free to run, by priority, then seed (so that the first seeds compare all
    variants early), then as the file names the variants.
    """
    study = loaded.study
    folder = StudyDir(results / study.study)
    identities = Identities(study, loaded.path.parent, folder)
    offline = loaded.locking is not None and loaded.locking.complete
    graph = Graph(study, identities, _relative(loaded.path.parent, folder), offline=offline)
    for variant, seed in trials_in_order(study):
        graph.add_trial(variant, seed)
    jobs = graph.jobs()
    identities.remember()
    inputs = {"datasets": identities.datasets, "model": identities.model}
    on_disk = folders_on_disk(folder)
    place = str(folder.jobs)
    states = {job.id: status_at(f"{place}/{job.id}", job) if job.id in on_disk else "pending" for job in jobs}
    if brief:
        return Plan(study, folder, [PlannedJob(job, states[job.id], UNKNOWN) for job in jobs], inputs)
    require_agreement(loaded, jobs)
    planned = _with_estimates(jobs, states, study, loaded.path.parent, folder, on_disk, identities)
    gates, gate_warnings = _foresee_gates(planned)
    return Plan(
        study=study,
        folder=folder,
        jobs=planned,
        inputs=inputs,
        gates=gates,
        changes=explain_changes(jobs, folder, identities),
        orphans=find_orphans(jobs, folder),
        warnings=[
            *loaded.warnings,
            *gate_warnings,
            *footing_warnings(study),
            *parts_warnings(study),
            *seen_rows_warnings(study),
            *merge_warnings(study),
            *curve_warnings(study),
            *check_sharing(loaded, jobs),
            *unread_warnings(study.resources),
            *_unlocked(loaded, identities, folder),
            *_unpinned(identities, loaded),
            *_unfetched(identities, loaded),
        ],
    )


def trials_in_order(study: Study) -> list[tuple[str, int]]:
    """Variant and seed of every trial, in the order in which they should run."""
    by_priority: dict[int, list[str]] = {}
    for name, variant in study.variants.items():
        by_priority.setdefault(variant.priority, []).append(name)
    return [
        (name, seed) for rank in sorted(by_priority, reverse=True) for seed in study.seeds for name in by_priority[rank]
    ]


def _with_estimates(
    jobs: Sequence[Job],
    states: dict[str, Status],
    study: Study,
    base: Path,
    folder: StudyDir,
    on_disk: set[str],
    identities: Identities,
) -> list[PlannedJob]:
    measured = _measured(jobs, on_disk, folder)
    estimator = Estimator(study, base)
    estimates: dict[int, Estimate] = {}
    loose: dict[int, tuple[str, ...]] = {}  # seeds and variants share the object
    planned = []
    for job in jobs:
        known = id(job.training)
        if job.training and known not in estimates:
            estimates[known] = estimator.of(job.training, measured.get(_data_key(job.training), {}))
        if known not in loose:
            loose[known] = identities.not_final(study, job.training)
        estimate = estimates[known] if job.training else NO_STEPS
        begun = job.training is not None and states[job.id] in ("interrupted", "failed", "running")
        kept = steps_kept(folder.job(job.id)) if begun else 0
        planned.append(PlannedJob(job, states[job.id], estimate, loose[known], kept))
    return planned


def _foresee_gates(planned: Sequence[PlannedJob]) -> tuple[list[GatedStage], list[str]]:
    """Forecast and warnings of each different gated stage: seeds do not change what is foreseen."""
    gates: list[GatedStage] = []
    warned: list[str] = []
    seen: set[int] = set()
    for job in planned:
        settings = job.job.training
        if settings is None or settings.adapter is None or id(settings) in seen:
            continue
        seen.add(id(settings))
        if found := forecast(settings, job.steps):
            gates.append(GatedStage(job.job.stage, job.job.variants, found))
            warned += shrink_warnings(f"{job.job.stage} ({', '.join(job.job.variants)})", settings, found)
    return gates, warned


def _measured(jobs: Sequence[Job], on_disk: set[str], folder: StudyDir) -> dict[str, Measured]:
    """What jobs of this plan have counted in their data; one of them speaks for all that read the same."""
    found: dict[str, Measured] = {}
    keys: dict[int, str] = {}  # seeds and variants share the object
    for job in jobs:
        if not job.training or job.id not in on_disk:
            continue
        key = keys.get(id(job.training)) or keys.setdefault(id(job.training), _data_key(job.training))
        if key not in found:
            report = read_object(folder.job(job.id).data_report)
            if isinstance(report.get("sources"), dict):
                found[key] = report["sources"]
    return found


def _data_key(settings: TrainStage) -> str:
    """Equal for stages of one study that make the same samples."""
    parts = [part.model_dump() for part in settings.data]
    return canonical([parts, settings.max_length, settings.overlong, settings.loss_on])


def _relative(base: Path, folder: StudyDir) -> str:
    """From any job's directory to the study file's folder, so that results name no path of this machine."""
    return os.path.relpath(base.resolve(), folder.job("any").root.resolve())


def _unlocked(loaded: LoadedStudy, identities: Identities, folder: StudyDir) -> list[str]:
    locking = loaded.locking
    if locking is None:
        return []
    missing = locking.missing
    first = [f"`{one}` is not in {locking.path.name}: first `tunestudy fetch {loaded.typed}`" for one in missing]
    return [*first, *image_warnings(locking, identities.datasets, folder.fetch)]


def _unpinned(identities: Identities, loaded: LoadedStudy) -> list[str]:
    told = {one.id for one in loaded.locking.missing} if loaded.locking is not None else set()
    return [
        f"`{name}` is not pinned to a revision: what the hub serves may change; `tunestudy fetch` locks what it has now"
        for name in dict.fromkeys(identities.unpinned)
        if name not in told
    ]


def _unfetched(identities: Identities, loaded: LoadedStudy) -> list[str]:
    """A line per data set of the web; what is drawn here `run` fetches by itself."""
    wanted = [
        name
        for name, one in loaded.study.datasets.items()
        if name in identities.unfetched and getattr(one, "drawn", None) is None
    ]
    return [
        f"datasets.{name}: which of its images come is not pinned before `tunestudy fetch {loaded.typed}`: until then "
        "steps count all that are asked for, and the ids of jobs that read them are not final"
        for name in wanted
    ]


def _share(amount: int | None, planned: PlannedJob) -> int | None:
    return None if amount is None else round(amount * planned.share_left(planned.steps))


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value for value in values if value)

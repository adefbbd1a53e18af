"""What a tracker is told of a job beside its curves: how it is called, what it was made with, what came of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunestudy.config.job import Job
from tunestudy.config.trackers import TrackerSettings
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact, redact_tree

LONGEST_TAG = 64
"""Characters; W&B refuses longer ones."""


@dataclass(frozen=True, kw_only=True)
class About:
    """One run of a tracker. Texts are without tokens."""

    run_id: str
    """From the job's fingerprint and its first start: the same when it is resumed or copied, another when it is deleted
    and made anew or when someone else runs the same study."""
    project: str
    entity: str | None
    name: str
    group: str
    tags: tuple[str, ...]
    notes: str
    config: Mapping[str, Any]
    folder: JobDir


def about(job: Job, folder: JobDir, study: str, settings: TrackerSettings, project: str) -> About:
    """How a job presents itself."""
    first, *_ = job.variants or ("?",)
    known = {"study": study, "variant": first, "seed": job.seed, "stage": job.stage, "job": job.id}
    tags = (*job.variants, job.stage, f"seed_{job.seed}", *settings.tags)
    where = f"results: {study}/jobs/{job.id}"
    return About(
        run_id=run_id(job, folder),
        project=settings.project or project or study,
        entity=settings.entity,
        name=redact(settings.run_name.format(**known)),
        group=redact(first),
        tags=tuple(dict.fromkeys(redact(tag)[:LONGEST_TAG] for tag in tags)),
        notes=redact("\n".join(filter(None, (settings.notes, where)))),
        config=config_of(job, study),
        folder=folder,
    )


def config_of(job: Job, study: str) -> dict[str, Any]:
    """Every setting of the job as it was resolved, and what names it. Paths of this machine are not among them."""
    facts: dict[str, Any] = job.model_dump(mode="json", exclude={"base_dir", "evaluations", "offline", "datasets"})
    settings = facts.pop("settings") or {}
    named = {"study": study, "benchmarks": sorted(job.evaluations), "folder": f"jobs/{job.id}"}
    told: dict[str, Any] = redact_tree({**facts, **named, "settings": settings})
    return told


def run_id(job: Job, folder: JobDir) -> str:
    """`<12 digits of the fingerprint>-<6 of its first start>`."""
    began = read_object(folder.progress_json).get("started_at")
    return f"{job.fingerprint[:12]}-{hashlib.sha256(repr(began).encode()).hexdigest()[:6]}"


def summary_of(job: Job, folder: JobDir) -> dict[str, Any]:
    """Scores and what came of the job; only what is there, and of a job that is not done why it failed."""
    told: dict[str, Any] = {}
    for name in job.evaluations:
        metrics = read_object(folder.eval_json(name)).get("metrics")
        for metric, value in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(value, int | float):
                told[f"benchmarks/{name}/{metric}"] = value
    result = read_object(folder.result_json)
    kept = ("steps", "tokens", "duration_s", "trainable_params")
    told |= {f"result/{name}": result[name] for name in kept if isinstance(result.get(name), int | float)}
    failure = read_object(folder.failure_json)
    if failure and not result:
        told["failure"] = redact(f"{failure.get('kind')}: {failure.get('message')}")[:400]
    return told

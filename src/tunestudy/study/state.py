"""How far a job is, read from its directory alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tunestudy.config.job import Evaluation, Job
from tunestudy.records.atomic import read_json
from tunestudy.records.kept import kept_checkpoints
from tunestudy.records.layout import CLAIM, FAILURE, LEASE, PROGRESS, RESULT, JobDir, StudyDir

Status = Literal["done", "evaluate", "running", "failed", "interrupted", "pending"]
"""`evaluate`: trained, but a benchmark is missing or has changed since."""


def job_status(folder: JobDir, job: Job) -> Status:
    """The state of `job` as its directory tells it; a directory that is not there is `pending`."""
    try:
        there = set(os.listdir(folder.root))  # noqa: PTH208 - `status` looks into ten thousand, and wants names alone
    except OSError:
        return "pending"
    trained = RESULT in there and read_object(folder.result_json).get("fingerprint") == job.fingerprint
    if trained and not any(missing_evaluations(folder, job)):
        return "done"
    if (LEASE in there or CLAIM in there) and is_running(folder):
        return "running"
    if FAILURE in there:
        return "failed"
    if trained:
        return "evaluate"
    return "interrupted" if PROGRESS in there else "pending"


def is_running(folder: JobDir) -> bool:
    """Whether a launcher or a worker holds the job, on whatever machine."""
    from tunestudy.records.lease import Lease  # a plan of a fresh study does not wait for its imports

    return Lease.holder(folder.lease) is not None or Lease.holder(folder.claim) is not None


def missing_evaluations(folder: JobDir, job: Job) -> Iterator[str]:
    """Benchmarks without a score of today's definition; of a checkpoint `<benchmark> of checkpoint-500`.

    Only for a trained job: until then its checkpoints come and go.
    """
    for name, evaluation in job.evaluations.items():
        if not _is_scored(folder, name, evaluation):
            yield name
    if any(evaluation.benchmark.checkpoints for evaluation in job.evaluations.values()):
        for checkpoint, step in kept_checkpoints(folder):
            for name, evaluation in job.evaluations.items():
                wanted = evaluation.benchmark.wants_checkpoint(step)
                if wanted and not _is_scored(folder.at_checkpoint(checkpoint), name, evaluation):
                    yield f"{name} of {checkpoint}"


def _is_scored(folder: JobDir, name: str, evaluation: Evaluation) -> bool:
    return bool(read_object(folder.eval_json(name)).get("fingerprint") == evaluation.fingerprint)


def folders_on_disk(study: StudyDir) -> set[str]:
    """Names of all job directories, read in one go: asking for each of ten thousand would take seconds."""
    if not study.jobs.is_dir():
        return set()
    return {entry.name for entry in study.jobs.iterdir() if not entry.name.startswith(".")}


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is none."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}  # torn or unreadable: what it should prove is not proven
    return value if isinstance(value, dict) else {}

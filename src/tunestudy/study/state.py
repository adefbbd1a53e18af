"""How far a job is, read from its directory alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tunestudy.config.job import Evaluation, Job
from tunestudy.records.atomic import read_object
from tunestudy.records.kept import find_checkpoints
from tunestudy.records.layout import CLAIM, EVAL, FAILURE, LEASE, PROGRESS, RESULT, JobDir, StudyDir, score_name

Status = Literal["done", "evaluate", "running", "failed", "interrupted", "pending"]
"""`evaluate`: trained, but a benchmark is missing or has changed since."""


def job_status(folder: JobDir, job: Job) -> Status:
    """The state of `job` as its directory tells it; a directory that is not there is `pending`."""
    return status_at(str(folder.root), job)


def status_at(root: str, job: Job) -> Status:
    """`job_status` of the directory `root`. `status` asks for ten thousand: a text, as making paths takes longer than
    reading what they name, and the result first, as most of a long study's jobs are done."""
    result = f"{root}/{RESULT}"
    trained = read_object(result).get("fingerprint") == job.fingerprint
    if trained and not any(_missing(root, job)):
        return "done"
    try:
        there = set(os.listdir(root))  # noqa: PTH208
    except OSError:
        return "pending"
    if (LEASE in there or CLAIM in there) and is_running(JobDir(Path(root))):
        return "running"
    if FAILURE in there:
        return "failed"
    if trained or (RESULT in there and read_object(result).get("fingerprint") == job.fingerprint):
        return "evaluate"  # also when it came while we looked
    return "interrupted" if PROGRESS in there else "pending"


def is_running(folder: JobDir) -> bool:
    """Whether a launcher or a worker holds the job, on whatever machine."""
    from tunestudy.records.lease import Lease  # a plan of a fresh study does not wait for its imports

    return Lease.holder(folder.lease) is not None or Lease.holder(folder.claim) is not None


def steps_kept(folder: JobDir) -> int:
    """Steps that an unfinished job need not take again: those before its last full checkpoint. Whether that holds
    what it should, the job itself finds out."""
    return max((one.step for one in find_checkpoints(folder.root) if one.kind == "full"), default=0)


def missing_evaluations(folder: JobDir, job: Job) -> Iterator[str]:
    """Benchmarks without a score of today's definition; of a checkpoint `<benchmark> of checkpoint-500`.

    Only for a trained job: until then its checkpoints come and go.
    """
    yield from _missing(str(folder.root), job)


def _missing(root: str, job: Job) -> Iterator[str]:
    for name, evaluation in job.evaluations.items():
        if not _is_scored(f"{root}/{EVAL}", name, evaluation):
            yield name
    if any(evaluation.benchmark.checkpoints for evaluation in job.evaluations.values()):
        folder = JobDir(Path(root))
        for checkpoint in find_checkpoints(folder.root):
            scores = str(folder.at_checkpoint(checkpoint.name).eval)
            for name, evaluation in job.evaluations.items():
                if evaluation.benchmark.wants_checkpoint(checkpoint.step) and not _is_scored(scores, name, evaluation):
                    yield f"{name} of {checkpoint.name}"


def _is_scored(scores: str, name: str, evaluation: Evaluation) -> bool:
    return bool(read_object(f"{scores}/{score_name(name)}").get("fingerprint") == evaluation.fingerprint)


def folders_on_disk(study: StudyDir) -> set[str]:
    """Names of all job directories, read in one go: asking for each of ten thousand would take seconds."""
    if not study.jobs.is_dir():
        return set()
    return {entry.name for entry in study.jobs.iterdir() if not entry.name.startswith(".")}

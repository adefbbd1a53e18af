"""What `status`, `watch` and `plan` can say of jobs that were handed to SLURM."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.launch.slurm.commands import SlurmError
from tunestudy.launch.slurm.left import verdict_on
from tunestudy.launch.slurm.queue import ALLOCATION, Queued, listed_jobs, live_jobs, read_queue, submissions
from tunestudy.records.layout import StudyDir

_MOST_LOST = 20
"""So many submissions that left without a result are asked for one by one."""


@dataclass(frozen=True, kw_only=True)
class InSlurm:
    """Of one study: what is in the queue, and what left it without a result."""

    live: Mapping[str, Queued] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    """Job id → what became of its submission."""
    problem: str = ""
    """Why SLURM could not be asked."""

    def words(self, job_id: str, *, runs: bool = False) -> str:
        """One line on a job; empty when SLURM has nothing to do with it."""
        entry = self.live.get(job_id)
        return entry.words_on(runs=runs) if entry else self.lost.get(job_id, "")

    def as_json(self, job_id: str, *, runs: bool = False) -> dict[str, Any] | None:
        entry = self.live.get(job_id)
        if entry is None:
            return {"left": self.lost[job_id]} if job_id in self.lost else None
        told = {name: getattr(entry, name) for name in ("id", "state", "reason", "nodes")}
        return {**told, "in_words": entry.words_on(runs=runs), "never_starts": entry.never_starts}


def in_slurm(study: StudyDir, unfinished: Sequence[Job], running: Sequence[str] = ()) -> InSlurm:
    """Ask SLURM once. `unfinished`: jobs that are not done; `running`: ids of those that are seen to run."""
    if not (submissions(study) or study.slurm.mark.exists()):
        return InSlurm()
    try:
        queue = read_queue(study)
        live = live_jobs(queue)
        gone = [job for job in unfinished if job.id not in live and job.id not in running]
        return InSlurm(live=live, lost=dict(_lost(gone, study, queue)))
    except (SlurmError, StudyError) as error:
        return InSlurm(problem=f"SLURM cannot be asked: {error}")


def queued_jobs(study: StudyDir) -> dict[str, str]:
    """Job id → why its folder has to stay for SLURM: of jobs in its queue; where it cannot be asked, of all that were
    handed to it and have no result."""
    told = in_slurm(study, [])
    if told.problem:
        unfinished = [job for job in numbers_of(study) if not study.job(job).result_json.exists()]
        return dict.fromkeys(unfinished, "SLURM cannot be asked whether it is in its queue")
    return {job: entry.in_words for job, entry in told.live.items()}


def _lost(jobs: Sequence[Job], study: StudyDir, queue: list[Queued]) -> Iterator[tuple[str, str]]:
    numbers = numbers_of(study)
    for job in [job for job in jobs if job.id in numbers][:_MOST_LOST]:
        yield job.id, verdict_on(job, study, queue, numbers[job.id], failed_before=None).message


def numbers_of(study: StudyDir) -> dict[str, str]:
    """Job id → SLURM's number of its latest submission."""
    found: dict[str, str] = {}
    for key, told in sorted(submissions(study).items(), key=lambda item: int(item[1]["slurm_id"])):
        names = listed_jobs(study.slurm.jobs(key))
        one = key == ALLOCATION or len(names) == 1
        found |= {name: told["slurm_id"] + ("" if one else f"_{place}") for place, name in enumerate(names)}
    return found

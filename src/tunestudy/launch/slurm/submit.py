"""Submitting what is missing, once: parents first, as many as the queue takes, never what it holds already.

Whoever submits holds a lease of the study meanwhile and asks SLURM what it has before every round, so two people, or a
`run` that was killed between sbatch and writing the number down, do not submit a job twice.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.outcome import is_complete
from tunestudy.launch.slurm.commands import SlurmError, ask, patiently
from tunestudy.launch.slurm.mark import keep_mark
from tunestudy.launch.slurm.queue import ALLOCATION, Queued, live_jobs, read_queue
from tunestudy.launch.slurm.script import Submission, write_submission
from tunestudy.records.atomic import write_json
from tunestudy.records.events import Journal
from tunestudy.records.host import host_name
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError

LEASE_WAIT_S = 120.0
_NUMBER = re.compile(r"^(\d+)", re.MULTILINE)


@dataclass(kw_only=True)
class Submitter:
    """Hands jobs of one study to SLURM."""

    study: StudyDir
    resources: Resources
    has_gpus: bool
    journal: Journal
    full: str = ""
    """SLURM's words when it took no more in the last round."""

    def send(self, wanted: Sequence[Job], trained: Mapping[str, bool]) -> dict[str, str]:
        """Submit those of `wanted` (parents before children) that can be; returns job id → SLURM's number, also of
        those of them that others have sent meanwhile.

        A job can be when everything that it needs is trained or in the queue. Raises SlurmError when SLURM refuses, or
        its controller stays away; what was submitted until then is recorded.
        """
        try:
            with Lease.acquire(self.study.leases / "slurm", wait_s=LEASE_WAIT_S):
                keep_mark(self.study)
                return self._send(wanted, dict(trained), read_queue(self.study))
        except LeaseHeldError as error:
            self.full = f"{error.holder} is submitting jobs of this study"
            return {}

    def _send(self, wanted: Sequence[Job], trained: dict[str, bool], queue: list[Queued]) -> dict[str, str]:
        live = live_jobs(queue)
        there = {job: entry.id for job, entry in live.items()}
        sent = {job.id: there[job.id] for job in wanted if job.id in live and not live[job.id].lost_its_parents}
        held = len({entry.id for entry in queue if entry.is_live})
        most = self.resources.slurm.max_submitted or 10**9
        self.full = ""
        left = [job for job in wanted if job.id not in there]
        packed = next((entry for entry in queue if entry.is_live and entry.key == ALLOCATION), None)
        if packed is not None and left:
            self.full = f"allocation {packed.id} comes first, which does not hold them"
            return sent
        for one in submissions_of(left, self.resources, trained):
            needs = [need for job in one.jobs for need in job.needs if not trained.get(need)]
            after = sorted({there[need] for need in needs if need in there})
            if one.key != ALLOCATION and any(need not in there for need in needs):
                continue
            fitting = self._fitting(one, most - held)
            if fitting is None:
                return sent
            # what others sent may be over by now: then it has left the queue, and its files tell
            done = {job.id: True for job in fitting.jobs if is_complete(job, self.study.job(job.id))}
            trained |= done
            if (fitting := fitting.without(done)) is None:
                continue
            try:
                number = self._sbatch(fitting, after if one.key != ALLOCATION else [])
            except SlurmError as error:
                if not error.is_full:
                    raise
                self.full = str(error)
                return sent
            held += len(fitting.jobs) if fitting.is_array else 1
            new = {job.id: f"{number}_{n}" if fitting.is_array else number for n, job in enumerate(fitting.jobs)}
            there |= new
            sent |= new
        return sent

    def _fitting(self, one: Submission, room: int) -> Submission | None:
        """As much of a submission as `max_submitted` leaves room for."""
        if room >= (len(one.jobs) if one.is_array else 1):
            return one
        self.full = f"slurm.max_submitted is {self.resources.slurm.max_submitted}"
        return Submission.of(one.jobs[:room]) if one.is_array and room > 0 else None

    def _sbatch(self, one: Submission, after: Sequence[str]) -> str:
        """SLURM's number of the new submission. A try that went unanswered is not repeated when it arrived."""
        path = write_submission(one, self.study, self.resources, has_gpus=self.has_gpus)
        wait_for = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
        tries: list[str] = []

        def attempt() -> str:
            if tries and (arrived := next((e for e in read_queue(self.study) if e.is_live and e.key == one.key), None)):
                return arrived.id.partition("_")[0]
            tries.append(one.key)
            return ask("sbatch", "--parsable", *wait_for, str(path))

        told = _NUMBER.search(patiently(attempt))
        if told is None:
            raise SlurmError(f"sbatch told no number for {path}")
        facts = {"slurm_id": told[1], "key": one.key, "user": str(os.getuid()), "host": host_name()}
        write_json(self.study.slurm.submission(one.key), {**facts, "mark": keep_mark(self.study)})
        names = [job.id for job in one.jobs]
        self.journal.write("slurm_submitted", slurm_id=told[1], key=one.key, jobs=names, after=list(after))
        return told[1]


def submissions_of(jobs: Sequence[Job], resources: Resources, trained: Mapping[str, bool]) -> list[Submission]:
    """One per job, parents before children; with `array` one for all that wait for the same ones.

    trained: of jobs that are needed, whether their weights are there; those of which nothing is said are waited for.
    """
    settings = resources.slurm
    if settings.mode == "allocation":
        return [Submission(ALLOCATION, tuple(jobs))] if jobs else []
    if not settings.array:
        return [Submission.of([job]) for job in jobs]
    depths: dict[str, int] = {}
    for job in jobs:
        depths[job.id] = 1 + max((depths[need] for need in job.needs if need in depths), default=0)

    def alike(job: Job) -> tuple[int, list[str]]:
        return depths[job.id], sorted(need for need in job.needs if not trained.get(need))

    return [Submission.of(list(group)) for _, group in groupby(sorted(jobs, key=alike), key=alike)]


def refused(error: SlurmError, study: StudyDir) -> StudyError:
    """SLURM's complaint as users get it."""
    if error.is_away:
        cause = f"SLURM's controller does not answer: {error}; what was submitted goes on, `tunestudy run` continues"
        return StudyError(study.root.name, cause, exit_code=Exit.PREFLIGHT_REFUSED)
    cause = f"SLURM refuses: {error}; see resources.slurm and the files in {study.slurm.root}"
    return StudyError(study.root.name, cause, exit_code=Exit.PREFLIGHT_REFUSED)

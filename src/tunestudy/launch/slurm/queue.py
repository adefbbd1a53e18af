"""What SLURM knows of a study's submissions: squeue, and what can be learnt of those that left it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tunestudy.config.errors import StudyError
from tunestudy.launch.show import WILL_NOT_START
from tunestudy.launch.slurm.commands import SlurmError, ask
from tunestudy.launch.slurm.mark import PREFIX, mark_of
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir

ALLOCATION = "allocation"
"""The key of the one submission that holds all jobs."""
_FORMAT = "%i|%j|%T|%N|%k|%r"
"""Number, name, state, nodes, comment, reason: the reason stands last, as it may hold anything."""
GONE = frozenset(
    {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
)

_IN_WORDS = {
    "Dependency": "waits for the jobs that it starts from",
    "Resources": "waits for free nodes",
    "Priority": "others come first",
    "BeginTime": "starts again in a while, as it was requeued",
    "JobArrayTaskLimit": "waits for others of its array (max_running)",
    "QOSMaxJobsPerUserLimit": "your account may run no more jobs at a time",
    "AssocMaxJobsLimit": "your account may run no more jobs at a time",
}
_NEVER = {
    "DependencyNeverSatisfied": "a job that it starts from failed in SLURM; `run` again submits it anew",
    "PartitionTimeLimit": "slurm.time is above the partition's limit",
    "PartitionNodeLimit": "the partition has fewer nodes than slurm.nodes",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition takes no jobs now",
    "JobHeldUser": "held; `scontrol release` lets it go",
    "JobHeldAdmin": "held by an administrator",
    "BadConstraints": "no node meets slurm.constraint",
    "AccountNotAllowed": "slurm.account may not use this partition",
    "InvalidAccount": "slurm.account is not known",
    "InvalidQOS": "slurm.qos is not known",
    "launch_failed_requeued_held": "its start failed and SLURM holds it; `scontrol release` lets it go",
}
"""Reasons that do not pass by waiting."""


@dataclass(frozen=True, kw_only=True)
class Queued:
    """One submission, or one element of an array, as squeue tells it."""

    id: str
    """`12`, of an array's element `12_3`."""
    key: str
    state: str
    nodes: str
    reason: str
    jobs: tuple[str, ...] = ()
    """Ids of the jobs in it."""

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs; SLURM lists those that ended for some minutes, too."""
        return self.state not in GONE

    @property
    def is_pending(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def never_starts(self) -> bool:
        """Whether waiting will not help."""
        return self.is_pending and self.reason in _NEVER

    @property
    def lost_its_parents(self) -> bool:
        """Whether a submission that it waits for has failed: it is in the way of its job's next one."""
        return self.reason == "DependencyNeverSatisfied"

    @property
    def is_shared(self) -> bool:
        """Whether it runs and starts its jobs one after the other, so that most of them wait inside it."""
        return self.key == ALLOCATION and not self.is_pending

    def words_on(self, *, runs: bool) -> str:
        """The same of one of its jobs, which runs or does not."""
        return f"waiting for a slot of {self.id} on {self.nodes}" if self.is_shared and not runs else self.in_words

    @property
    def in_words(self) -> str:
        """`queued as 12: waits for free nodes`."""
        if not self.is_pending:
            return f"{self.state.lower()} as {self.id}" + f" on {self.nodes}" * bool(self.nodes)
        if self.reason in _NEVER:
            return f"queued as {self.id}, {WILL_NOT_START}: {_NEVER[self.reason]} ({self.reason})"
        why = _IN_WORDS.get(self.reason, self.reason)
        return f"queued as {self.id}" + (f": {why}" if why not in ("None", "") else "")


def read_queue(study: StudyDir) -> list[Queued]:
    """Submissions of this results folder, whoever sent them, those that ended lately included. SlurmError, StudyError.

    Told by their comment; where a site overwrites comments, by their recorded numbers.
    """
    mark, recorded = mark_of(study), {told["slurm_id"]: told for told in submissions(study).values()}
    # by number: names in the environment (sudo, su) may be somebody else's
    users = {str(os.getuid()), *(told["user"] for told in recorded.values())}
    output = ask("squeue", "-h", "-r", "-a", "-t", "all", "-u", ",".join(sorted(users)), "-o", _FORMAT)
    return [
        replace(entry, jobs=jobs_of(study, entry))
        for line in output.splitlines()
        if (entry := _parsed(line, mark, recorded))
    ]


def _parsed(line: str, mark: str, recorded: Mapping[str, object]) -> Queued | None:
    fields = line.split("|", 5)
    if len(fields) < 6:
        return None
    number, name, state, nodes, comment, reason = fields
    ours = comment == mark or (not comment.startswith(PREFIX) and number.partition("_")[0] in recorded)
    if not ours or ":" not in name:
        return None
    return Queued(id=number, key=name.partition(":")[2], state=state, nodes=nodes, reason=reason)


def jobs_of(study: StudyDir, entry: Queued) -> tuple[str, ...]:
    """Ids of the jobs in a submission; of an array's element the one that it runs."""
    names = listed_jobs(study.slurm.jobs(entry.key))
    index = entry.id.partition("_")[2]
    return (names[int(index)],) if index.isdigit() and int(index) < len(names) else names


def listed_jobs(path: Path) -> tuple[str, ...]:
    """The lines of a submission's list."""
    return tuple(path.read_text(encoding="utf-8").split()) if path.is_file() else ()


def live_jobs(queue: list[Queued]) -> dict[str, Queued]:
    """Job id → the submission that waits or runs for it; one that runs counts before one that waits."""
    live = [entry for entry in queue if entry.is_live]
    return {job: entry for entry in sorted(live, key=lambda one: not one.is_pending) for job in entry.jobs}


def submissions(study: StudyDir) -> dict[str, dict[str, str]]:
    """Key → what was written down as it was submitted."""
    files = study.slurm.submissions.glob("*.json") if study.slurm.submissions.is_dir() else ()
    told = {path.stem: read_object(path) for path in files}
    return {key: facts for key, facts in told.items() if {"slurm_id", "user"} <= facts.keys()}


def last_state(queue: list[Queued], slurm_id: str) -> str:
    """SLURM's last word on a submission that is over, e.g. `CANCELLED` or `NODE_FAIL`; empty when it tells nothing.

    squeue remembers for some minutes, sacct for ever where there is one. SlurmError while the controller is away.
    """
    seen = next((entry.state for entry in queue if entry.id == slurm_id), "")
    if seen:
        return seen
    return next(_states_of(slurm_id), "")


def _states_of(slurm_id: str) -> Iterator[str]:
    for words in (
        ("sacct", "-n", "-X", "-P", "-o", "State", "-j", slurm_id),
        ("scontrol", "-o", "show", "job", slurm_id),
    ):
        try:
            told = ask(*words)
        except SlurmError as error:
            if words[0] == "scontrol" and error.is_away:
                raise  # nothing is known then, which is not the same as nothing to know
            continue  # no accounting here, or SLURM has forgotten the job
        except StudyError:
            continue  # many login nodes have no sacct at all
        for word in told.replace("JobState=", "").split():
            if word.rstrip("+") in GONE:
                yield word.rstrip("+")

"""What to make of a submission that left the queue while its job is not complete."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tunestudy.config.job import Job
from tunestudy.launch.outcome import Kind, Outcome, outcome_told
from tunestudy.launch.slurm.history import lives
from tunestudy.launch.slurm.queue import Queued, last_state
from tunestudy.records.atomic import read_object
from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir
from tunestudy.records.redact import redact

_TAIL_BYTES = 4096
_BY_STATE: dict[str, tuple[Kind, str]] = {
    "TIMEOUT": ("preempted", "was killed at its time limit before it had saved; a longer slurm.signal_s gives it time"),
    "PREEMPTED": ("preempted", "lost its node to another job"),
    "NODE_FAIL": ("node_lost", "lost its node"),
    "BOOT_FAIL": ("node_lost", "its node did not come up"),
    "DEADLINE": ("preempted", "came to SLURM's deadline"),
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`again`: submit it anew; `failed`: it will not help; `stopped`: someone wanted it so."""

    outcome: Literal["again", "failed", "stopped"]
    kind: Kind
    message: str
    slurm_id: str
    told: Outcome | None = None
    """The failure that the job's own files tell of."""
    went_on: bool = False
    """Whether it was ended by its time limit after it had come further."""

    @property
    def as_outcome(self) -> Outcome:
        return self.told or Outcome(kind=self.kind, message=self.message)


def verdict_on(
    job: Job,
    study: StudyDir,
    queue: list[Queued],
    slurm_id: str,
    *,
    failed_before: int | None,
    controller_was_away: bool = False,
) -> Verdict:
    """From the job's files first, then what the submission wrote down, then SLURM's last word.

    `failed_before`: the attempt that failure.json told of before the submission; the same one is no news.
    `controller_was_away`: since the submission was last seen; a controller that was killed forgets what came last.
    """
    events = read_events(study.events)
    failure = read_object(study.job(job.id).failure_json)
    if failure and failure.get("attempt") != failed_before and not _tried_again(job, failure, events):
        told = outcome_told(failure)
        return Verdict(outcome="failed", kind=told.kind, message=told.message, slurm_id=slurm_id, told=told)
    life = next((life for life in reversed(lives(events)) if life.slurm_id == slurm_id), None)
    if life is not None and life.reason == "stuck":
        message = "no step was made from one time limit to the next; raise resources.slurm.time"
        return Verdict(outcome="failed", kind="preempted", message=message, slurm_id=slurm_id)
    if life is not None and life.reason == "time limit":
        message = f"the time limit of submission {slurm_id} came; it goes on in another"
        return Verdict(outcome="again", kind="preempted", message=message, slurm_id=slurm_id, went_on=life.went_on)
    if life is not None and life.reason == "interrupted":
        message = f"submission {slurm_id} was asked to stop; `tunestudy run` continues"
        return Verdict(outcome="stopped", kind="interrupted", message=message, slurm_id=slurm_id)
    state = last_state(queue, slurm_id)
    if not state and life is None and controller_was_away:
        message = f"SLURM's controller came back without submission {slurm_id}"
        return Verdict(outcome="again", kind="node_lost", message=message, slurm_id=slurm_id)
    return _by_state(state, job, study, slurm_id, began=life is not None)


def _tried_again(job: Job, failure: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the submission meant to start the job again after that failure, and left while it waited to do so."""
    again = (one["attempt"] for one in events if one["event"] == "job_retried" and one.get("job") == job.id)
    return failure.get("attempt") in again


def _by_state(state: str, job: Job, study: StudyDir, slurm_id: str, *, began: bool) -> Verdict:
    if state in _BY_STATE:
        kind, words = _BY_STATE[state]
        return Verdict(
            outcome="again", kind=kind, message=f"submission {slurm_id} {words} ({state})", slurm_id=slurm_id
        )
    if state == "OUT_OF_MEMORY":
        message = f"SLURM ended submission {slurm_id} for its memory: raise resources.slurm.mem"
        return Verdict(outcome="failed", kind="oom", message=message, slurm_id=slurm_id)
    if state == "CANCELLED":
        who = "by `tunestudy stop`" if study.slurm.stopped.exists() else "from outside"
        message = f"submission {slurm_id} was cancelled {who}; `tunestudy run` continues"
        return Verdict(outcome="stopped", kind="interrupted", message=message, slurm_id=slurm_id)
    if state in ("FAILED", "COMPLETED") and not began:
        said = last_line(study, job, slurm_id)
        message = f"submission {slurm_id} ended before the job began: {said}"
        return Verdict(outcome="failed", kind="error", message=message, slurm_id=slurm_id)
    if state == "FAILED":
        message = f"submission {slurm_id} ended early: {last_line(study, job, slurm_id)}; `tunestudy run` continues"
        return Verdict(outcome="stopped", kind="killed", message=message, slurm_id=slurm_id)
    why = f"SLURM says {state}" if state else "SLURM says no more about it: cancelled, or its node was lost"
    message = f"submission {slurm_id} left the queue without a word ({why}); `tunestudy run` continues"
    return Verdict(outcome="stopped", kind="killed", message=message, slurm_id=slurm_id)


def last_line(study: StudyDir, job: Job, slurm_id: str) -> str:
    """What a submission printed last; where to look when there is nothing."""
    logs = sorted(study.slurm.outputs.glob(f"*.{slurm_id}.out")) if study.slurm.outputs.is_dir() else []
    for log in logs:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return redact(f"{lines[-1]} ({log.name})")
    return f"it printed nothing; `scontrol show job {slurm_id}` and sbatch's options may tell (job {job.id})"

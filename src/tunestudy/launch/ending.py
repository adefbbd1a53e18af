"""What is written down when an attempt has ended: the job's logs without tokens, its failure, the journal."""

import signal
import time
from dataclasses import replace
from pathlib import Path

from tunestudy.launch.outcome import Outcome, failed_words, memory_kills, read_outcome, record_failure
from tunestudy.launch.task import Attempt, Task
from tunestudy.records.events import Journal
from tunestudy.records.layout import StudyDir
from tunestudy.records.logs import scrub


def outcome_of(task: Task, attempt: Attempt, *, stopping: bool) -> Outcome:
    """The end of an attempt, read from files and its exit code; its logs are cleaned of tokens first."""
    clean_logs(task)
    outcome = read_outcome(
        task.job,
        task.folder,
        attempt=attempt.number,
        exit_code=attempt.running.poll() or 0,
        log_start=attempt.log_start,
        out_of_memory=memory_kills() > attempt.memory_kills,
    )
    if attempt.stopped_for and not stopping and outcome.kind in ("interrupted", "killed", "error", "preempted"):
        why = f"stopped by `expect:` as {attempt.stopped_for}; if that is well, widen the band and run again"
        return replace(outcome, kind="user", message=why, signal=None, exit_code=None, by_expectation=True)
    if stopping and outcome.kind in ("killed", "preempted"):
        return replace(outcome, kind="interrupted", message="ended by the signal of this run")
    if attempt.signs.hang and outcome.kind in ("killed", "error"):  # it was ended from here
        hang = attempt.signs
        outcome = replace(outcome, kind="hang", message=hang.hang, signal=None, exit_code=None)
        return replace(outcome, step=hang.step, rank=hang.rank, phase=hang.phase)
    if not stopping and outcome.kind == "interrupted":
        return replace(
            outcome, kind="killed", signal=signal.SIGTERM, message="asked to stop by someone outside this run"
        )
    return outcome


def clean_logs(task: Task) -> None:
    """Redact what torchrun and native libraries printed, and what a killed rank could not clean itself."""
    for log in task.folder.logs.glob("*.log"):
        scrub(log)


def write_down(task: Task, attempt: Attempt, outcome: Outcome, study: StudyDir, journal: Journal) -> None:
    """Journal the end of an attempt and set the task's state."""
    about = {"job": task.job.id, "attempt": attempt.number}
    duration_s = round(time.monotonic() - attempt.started, 3)
    if outcome.kind == "done":
        journal.write("job_finished", **about, duration_s=duration_s)
        task.state, task.note = "done", f"done in {duration_s:.0f} s"
    elif outcome.kind == "interrupted":
        journal.write("job_interrupted", **about, step=outcome.step)
        task.state, task.note = "interrupted", f"interrupted at step {outcome.step or 0}"
    else:
        write_down_failure(task, attempt.number, outcome, study, journal)


def write_down_failure(task: Task, attempt: int, outcome: Outcome, study: StudyDir, journal: Journal) -> None:
    """The same for an attempt that failed, whoever started it."""
    record_failure(task.folder, outcome, attempt)
    told = {"kind": outcome.kind, "message": outcome.message, "signal": outcome.signal, "step": outcome.step}
    told |= {"by_expectation": True} if outcome.by_expectation else {}
    log = log_of(task, outcome).relative_to(study.root).as_posix()
    journal.write("job_failed", job=task.job.id, attempt=attempt, **told, exit_code=outcome.exit_code, log=log)
    task.failures.append(outcome)
    task.state, task.note = "failed", failed_words(outcome.kind, outcome.message)


def log_of(task: Task, outcome: Outcome) -> Path:
    """The log to read first: the failing rank's, or torchrun's when the ranks never wrote one."""
    rank_log = task.folder.rank_log(outcome.rank or 0)
    return rank_log if rank_log.exists() else task.folder.launch_log

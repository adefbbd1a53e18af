"""What a run says at its end: which jobs failed and why, in words and as its exit code."""

import os
from collections.abc import Sequence
from pathlib import Path

from tunestudy.config.errors import Exit
from tunestudy.launch.ending import log_of
from tunestudy.launch.outcome import failed_words
from tunestudy.launch.retry import cure_of
from tunestudy.launch.task import Task
from tunestudy.records.redact import redact


def exit_of(tasks: Sequence[Task], *, stopped: bool) -> Exit:
    """How a run ends, whoever carried its jobs out. `stopped`: it was asked to end before they had.

    Jobs that failed by nothing but mistakes in the study or its data make it a wrong study, though it shows late.
    """
    if all(task.state == "done" for task in tasks):
        return Exit.DONE
    last = [task.failures[-1] for task in tasks if task.state == "failed"]
    if stopped or not last:
        return Exit.INTERRUPTED
    mistakes = all(one.kind == "user" and not one.by_expectation for one in last)
    return Exit.STUDY_WRONG if mistakes else Exit.JOBS_FAILED


def print_failures(tasks: Sequence[Task]) -> None:
    """Each failed job with cause, exit, last step and log; then what could not run because of it."""
    for task in tasks:
        if task.state == "failed" and task.failures:
            print("\n" + redact(failure_text(task)), flush=True)
    blocked = [task for task in tasks if task.state == "blocked"]
    for cause in dict.fromkeys(task.blocked_by for task in blocked):
        names = [task.name for task in blocked if task.blocked_by == cause]
        print(f"\nnot run, because {cause} failed: {', '.join(names)}", flush=True)


def failure_text(task: Task) -> str:
    """Several lines: what failed, why, when, where to read on, and what to do next."""
    last = task.failures[-1]
    times = len(task.failures)
    lines = [
        f"{task.name} {failed_words(last.kind, last.message)}"
        + (f" (failure {times} of this run)" if times > 1 else "")
    ]
    if last.signal is None and last.exit_code is not None:
        lines.append(f"  exit code {last.exit_code}")
    lines.append(f"  last step {last.step}" if last.step is not None else "  before its first step")
    if task.given_up:
        lines.append(f"  {task.given_up}")
    lines.append(f"  log: {_short(log_of(task, last))}")
    lines.append(f"  next: {cure_of(last.kind)}")
    return "\n".join(lines)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("../..") else str(path)

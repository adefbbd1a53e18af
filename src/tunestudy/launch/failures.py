"""What is told at the end about jobs that failed."""

import os
from collections.abc import Sequence
from pathlib import Path

from tunestudy.launch.ending import log_of
from tunestudy.launch.outcome import failed_words
from tunestudy.launch.retry import CURES
from tunestudy.launch.task import Task
from tunestudy.records.redact import redact


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
    lines.append(f"  next: {CURES[last.kind]}")
    return "\n".join(lines)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("../..") else str(path)

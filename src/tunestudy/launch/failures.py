"""What is told at the end about jobs that failed."""

import os
from collections.abc import Sequence
from pathlib import Path

from tunestudy.launch.executor import log_of
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
    """Several lines: what failed, why, when, where to read on."""
    last = task.failures[-1]
    times = len(task.failures)
    lines = [f"{task.name} failed" + (f" {times} times" if times > 1 else "") + f": {last.message}"]
    if last.signal is None and last.exit_code is not None:
        lines.append(f"  exit code {last.exit_code}")
    lines.append(f"  last step {last.step}" if last.step is not None else "  before its first step")
    if times > 1 and task.failures[-2].step == last.step:
        lines.append("  it failed at the same step before, so it was not started again")
    lines.append(f"  log: {_short(log_of(task, last))}")
    return "\n".join(lines)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("../..") else str(path)

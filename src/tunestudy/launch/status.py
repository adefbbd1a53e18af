"""`status`: how far every job is, from files alone.

With ten thousand jobs a second goes by quickly: what only some studies need is imported when they do.
"""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tunestudy.config.errors import Exit
from tunestudy.launch.alerts.feed import alert_words, alerts_in
from tunestudy.launch.durations import attempts_of, busy_seconds, duration_text
from tunestudy.launch.outcome import failed_words
from tunestudy.launch.retry import cure_of
from tunestudy.records.atomic import read_object
from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir
from tunestudy.report.values import number, whole
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan

MOST_ROWS = 60
"""Of more jobs only those are listed that a reader most wants to see."""
MOST_ALERTS = 10
_FILE_WIDTH = 150
"""Columns where nobody's terminal says how many: in a file or a pipe a job's id stays on one line."""
_FIRST = ("running", "failed", "interrupted", "evaluate", "pending", "done")


def status(loaded: LoadedStudy, results: Path, *, brief: bool = False) -> dict[str, Any]:
    """`plan --json` with `progress`, `failure`, `attempts` and `duration_s` per job, and `launchers` and `alerts`.

    Durations add up every attempt, in seconds. `totals.duration_s` is the time during which anything ran,
    `totals.job_duration_s` the sum over jobs. `brief`: without what an edit changes, orphans and warnings.
    """
    plan = make_plan(loaded, results, brief=brief)
    told: dict[str, Any] = plan.as_json()
    study = StudyDir(results / loaded.study.study)
    events = read_events(study.events)
    attempts = attempts_of(events, study)
    told["alerts"] = alerts_in(events)
    for job in told["jobs"]:
        begun = job["status"] not in ("done", "pending")
        mine = attempts.get(job["id"], [])
        job["slurm"] = None
        job["progress"] = (read_object(study.job(job["id"]).progress_json) or None) if begun else None
        job["failure"] = (read_object(study.job(job["id"]).failure_json) or None) if job["status"] == "failed" else None
        job["attempts"] = len(mine)
        job["duration_s"] = round(sum(end - start for start, end in mine), 3) if mine else None
    spans = [span for mine in attempts.values() for span in mine]
    told["totals"]["job_duration_s"] = round(sum(end - start for start, end in spans), 3)
    told["totals"]["duration_s"] = round(busy_seconds(spans), 3)
    told["slurm_problem"] = _add_slurm(told, plan, study) if study.slurm.root.is_dir() else ""
    told["launchers"] = _launchers(study) if study.launchers.is_dir() else []
    told["folder"], told["begun"] = str(study.root), study.root.is_dir()
    return told


def _add_slurm(told: dict[str, Any], plan: Plan, study: StudyDir) -> str:
    """`slurm` of jobs that are not done; returns why SLURM could not be asked, empty when it could."""
    from tunestudy.launch.slurm.accounting import keep_accounting
    from tunestudy.launch.slurm.status import in_slurm

    left = [planned for planned in plan.jobs if planned.status not in ("done", "failed")]
    by_slurm = in_slurm(study, [one.job for one in left], [one.job.id for one in left if one.status == "running"])
    keep_accounting(study)
    for job in told["jobs"]:
        if job["status"] != "done":
            job["slurm"] = by_slurm.as_json(job["id"], runs=job["status"] == "running")
    return by_slurm.problem


def _launchers(study: StudyDir) -> list[dict[str, Any]]:
    from tunestudy.records.launchers import launchers

    return [{"host": holder.host, "pid": holder.pid, "since": holder.since} for holder in launchers(study)]


def code_of(told: Mapping[str, Any]) -> Exit:
    """What a script is told of all jobs: those that failed come first, as running again may not help."""
    found = {job["status"] for job in told["jobs"]}
    return Exit.JOBS_FAILED if "failed" in found else Exit.DONE if found <= {"done"} else Exit.INTERRUPTED


def print_status(told: dict[str, Any]) -> None:
    """`status` for people."""
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "variants", "seed", "status", "step", "loss", "took"):
        table.add_column(column, overflow="fold")
    shown = sorted(told["jobs"], key=lambda job: _FIRST.index(job["status"]))[:MOST_ROWS]
    if len(told["jobs"]) <= MOST_ROWS:
        shown = told["jobs"]
    for job in shown:
        table.add_row(*_cells(job))
    console.print(table)
    if len(told["jobs"]) > len(shown):
        counts = Counter(job["status"] for job in told["jobs"])
        every = " · ".join(f"{counts[status]:,} {status}" for status in _FIRST if counts[status])
        console.print(f"{len(shown)} of {len(told['jobs']):,} jobs; {every}. --json lists every job", markup=False)
    for job in shown:
        if job["status"] == "failed":
            words, cure = _failure_words(job["failure"])
            console.print(f"{job['id']} {words}", style="red", markup=False)
            console.print(f"  next: {cure}", markup=False)
    for line in _slurm_lines(shown):
        console.print(line, markup=False, soft_wrap=True)
    if told["slurm_problem"]:
        console.print(told["slurm_problem"], style="yellow", markup=False)
    for alert in told["alerts"][-MOST_ALERTS:]:
        console.print(
            f"{time.strftime('%d %b %H:%M', time.localtime(alert['t']))}  {alert_words(alert)}",
            style="yellow",
            markup=False,
        )
    if not told["begun"]:
        console.print(f"nothing has run yet: there is no {told['folder']}; see --results", markup=False, soft_wrap=True)
        return
    totals = told["totals"]
    console.print(
        f"took {duration_text(totals['duration_s'])}, jobs together {duration_text(totals['job_duration_s'])}"
    )
    for launcher in told["launchers"]:
        console.print(f"running as process {launcher['pid']} on {launcher['host']}", markup=False)


def _cells(job: dict[str, Any]) -> list[str]:
    """A row; what someone else wrote into progress.json is shown as unknown."""
    progress = job["progress"] or {}
    step, loss = whole(progress.get("step")), number(progress.get("loss"))
    return [
        job["id"],
        ", ".join(job["variants"]),
        str(job["seed"]),
        job["status"],
        "–" if step is None else f"{step}/{whole(progress.get('total_steps')) or '?'}",
        "–" if loss is None else f"{loss:.4f}",
        duration_text(job["duration_s"]),
    ]


def _failure_words(failure: dict[str, Any] | None) -> tuple[str, str]:
    """What went wrong and what to do next."""
    if not failure:
        return "failed: its failure.json cannot be read", cure_of("error")
    kind = str(failure.get("kind") or "error")
    return failed_words(kind, str(failure.get("message") or "it left no message")), cure_of(kind)


def _slurm_lines(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """What SLURM says of jobs; those of which it says the same are told together."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        if job["slurm"] and not job["failure"]:
            found.setdefault(job["slurm"].get("in_words") or job["slurm"]["left"], []).append(job["id"])
    return [f"{names[0] if len(names) == 1 else f'{len(names)} jobs:'} {words}" for words, names in found.items()]

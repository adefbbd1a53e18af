"""Reaching a running study from another terminal: `stop` and `status`."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tunestudy.config.errors import Exit
from tunestudy.launch.alerts.feed import alert_words, alerts_in
from tunestudy.launch.durations import attempts_of, busy_seconds
from tunestudy.launch.orphans import orphan_of, stop_orphan
from tunestudy.launch.outcome import failed_words, read_object
from tunestudy.launch.presence import launchers
from tunestudy.launch.retry import CURES
from tunestudy.launch.show import duration_text
from tunestudy.launch.slurm.accounting import keep_accounting
from tunestudy.launch.slurm.status import InSlurm, in_slurm
from tunestudy.launch.slurm.stop import stop_submissions
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan

POLL_S = 0.2
MOST_ROWS = 60
"""Of more jobs only those are listed that a reader most wants to see."""
MOST_ALERTS = 10
_FIRST = ("running", "failed", "interrupted", "evaluate", "pending", "done")


def stop_study(study_dir: Path) -> Exit:
    """Ask everything of the study that runs on this machine or by SLURM to save and leave, and wait until it has.

    What runs on other machines is named, as signals do not reach it: then the exit code is 3.
    """
    study = StudyDir(study_dir)
    submitted = stop_submissions(study)
    alive = launchers(study)
    here = [holder for holder in alive if holder.here]
    elsewhere = [holder for holder in alive if not holder.here]
    for holder in here:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGTERM)
    orphans = _stop_orphans(study) if not here else 0
    for holder in elsewhere:
        print(f"{study_dir.name} also runs as {holder}: use `tunestudy stop` on that machine")
    if not here and not orphans:
        if not elsewhere:
            print("stopped; `tunestudy run` continues" if submitted else f"nothing of {study_dir.name} is running")
        return Exit.PREFLIGHT_REFUSED if elsewhere else Exit.DONE
    print("asked the jobs to save and leave …", flush=True)
    while not all(holder.is_gone for holder in here) or any(orphan_of(folder) for folder in _job_folders(study)):
        time.sleep(POLL_S)
    print("stopped; `tunestudy run` continues")
    return Exit.PREFLIGHT_REFUSED if elsewhere else Exit.DONE


def status(loaded: LoadedStudy, results: Path, *, brief: bool = False) -> dict[str, Any]:
    """`plan --json` with `progress`, `failure`, `attempts` and `duration_s` per job, and `launchers` and `alerts`.

    Durations add up every attempt, in seconds. `totals.duration_s` is the time during which anything ran,
    `totals.job_duration_s` the sum over jobs. `brief`: without what an edit changes, orphans and warnings.
    """
    plan = make_plan(loaded, results, brief=brief)
    told: dict[str, Any] = plan.as_json()
    study = StudyDir(results / loaded.study.study)
    by_slurm = _in_slurm(plan, study)
    if study.slurm.submissions.is_dir():
        keep_accounting(study)
    events = read_events(study.events)
    attempts = attempts_of(events, study)
    told["alerts"] = alerts_in(events)
    for job in told["jobs"]:
        job["slurm"] = by_slurm.as_json(job["id"], runs=job["status"] == "running") if job["status"] != "done" else None
        mine = attempts.get(job["id"], [])
        begun = job["status"] not in ("done", "pending")
        job["progress"] = read_object(study.job(job["id"]).progress_json) if begun else None
        job["failure"] = read_object(study.job(job["id"]).failure_json) if job["status"] == "failed" else None
        job["attempts"] = len(mine)
        job["duration_s"] = round(sum(end - start for start, end in mine), 3) if mine else None
    spans = [span for mine in attempts.values() for span in mine]
    told["totals"]["job_duration_s"] = round(sum(end - start for start, end in spans), 3)
    told["totals"]["duration_s"] = round(busy_seconds(spans), 3)
    told["slurm_problem"] = by_slurm.problem
    told["launchers"] = [{"host": holder.host, "pid": holder.pid, "since": holder.since} for holder in launchers(study)]
    return told


def _in_slurm(plan: Plan, study: StudyDir) -> InSlurm:
    left = [planned for planned in plan.jobs if planned.status not in ("done", "failed")]
    return in_slurm(study, [one.job for one in left], [one.job.id for one in left if one.status == "running"])


def print_status(told: dict[str, Any]) -> None:
    """`status` for people."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "variants", "seed", "status", "step", "loss", "took"):
        table.add_column(column, overflow="fold")
    shown = sorted(told["jobs"], key=lambda job: _FIRST.index(job["status"]))[:MOST_ROWS]
    if len(told["jobs"]) <= MOST_ROWS:
        shown = told["jobs"]
    for job in shown:
        progress = job["progress"] or {}
        step = "–" if progress.get("step") is None else f"{progress['step']}/{progress.get('total_steps') or '?'}"
        loss = "–" if progress.get("loss") is None else f"{progress['loss']:.4f}"
        variants = ", ".join(job["variants"])
        table.add_row(
            job["id"], variants, str(job["seed"]), job["status"], step, loss, duration_text(job["duration_s"])
        )
    console.print(table)
    if len(told["jobs"]) > len(shown):
        counts = Counter(job["status"] for job in told["jobs"])
        every = " · ".join(f"{counts[status]:,} {status}" for status in _FIRST if counts[status])
        console.print(f"{len(shown)} of {len(told['jobs']):,} jobs; {every}. --json lists every job", markup=False)
    for job in shown:
        if job["failure"]:
            kind = str(job["failure"].get("kind") or "error")
            words = failed_words(kind, str(job["failure"].get("message")))
            console.print(f"{job['id']} {words}", style="red", markup=False)
            console.print(f"  next: {CURES[kind]}", markup=False)
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
    totals = told["totals"]
    console.print(
        f"took {duration_text(totals['duration_s'])}, jobs together {duration_text(totals['job_duration_s'])}"
    )
    for launcher in told["launchers"]:
        console.print(f"running as process {launcher['pid']} on {launcher['host']}", markup=False)


def _slurm_lines(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """What SLURM says of jobs; those of which it says the same are told together."""
    found: dict[str, list[str]] = {}
    for job in jobs:
        if job["slurm"] and not job["failure"]:
            found.setdefault(job["slurm"].get("in_words") or job["slurm"]["left"], []).append(job["id"])
    return [f"{names[0] if len(names) == 1 else f'{len(names)} jobs:'} {words}" for words, names in found.items()]


def _job_folders(study: StudyDir) -> list[JobDir]:
    return [JobDir(folder) for folder in study.jobs.iterdir()] if study.jobs.is_dir() else []


def _stop_orphans(study: StudyDir) -> int:
    """SIGTERM to jobs whose launcher was killed; returns how many."""
    orphans = [orphan for folder in _job_folders(study) if (orphan := orphan_of(folder))]
    for orphan in orphans:
        stop_orphan(orphan)
    return len(orphans)

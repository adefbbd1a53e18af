"""`watch`: the live table of a study that runs elsewhere, from files alone."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunestudy.config.errors import Exit
from tunestudy.launch.alerts.feed import AlertFeed, alert_words
from tunestudy.launch.outcome import failed_words
from tunestudy.launch.show import Display, Row, make_row, open_display, summary
from tunestudy.launch.slurm.status import InSlurm, in_slurm
from tunestudy.launch.task import Task
from tunestudy.records.atomic import read_object
from tunestudy.records.launchers import launchers
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan
from tunestudy.study.state import Status, job_status

POLL_S = 0.5
SLURM_POLL_S = 15.0
"""Its controller serves everybody."""


def watch(loaded: LoadedStudy, results: Path) -> Exit:
    """Show the study until nothing of it runs any more. Ctrl-C ends the watching, not the study."""
    study = StudyDir(results / loaded.study.study)
    tasks = [Task(planned.job, study.job(planned.job.id)) for planned in make_plan(loaded, results).jobs]
    with open_display() as display:
        try:
            rows = _until_nothing_runs(tasks, study, display)
        except KeyboardInterrupt:
            print("\nno longer watching; the study goes on")
            return Exit.DONE
    print(summary(rows))
    if all(row.state == "done" for row in rows):
        return Exit.DONE
    return Exit.JOBS_FAILED if any(row.state == "failed" for row in rows) else Exit.INTERRUPTED


def _until_nothing_runs(tasks: Sequence[Task], study: StudyDir, display: Display) -> list[Row]:
    asked, by_slurm = float("-inf"), InSlurm()
    feed = AlertFeed(study.events)
    while True:
        for alert in feed.new():
            display.alert(alert_words(alert))
        launching = bool(launchers(study))
        if time.monotonic() - asked > SLURM_POLL_S:
            left = [task for task in tasks if task.state != "done"]
            asked, by_slurm = time.monotonic(), in_slurm(study, [task.job for task in left])
        rows = [with_queue(look(task), by_slurm) for task in tasks]
        display.update(rows)
        if not launching and not any(row.state in ("running", "queued") for row in rows):
            return rows
        time.sleep(POLL_S)


def with_queue(row: Row, by_slurm: InSlurm) -> Row:
    """The row with what SLURM says of a job that neither runs nor is over."""
    if row.state not in ("pending", "interrupted", "evaluate") or not by_slurm.words(row.id):
        return row
    return replace(row, state="queued" if row.id in by_slurm.live else row.state, note=by_slurm.words(row.id))


def look(task: Task) -> Row:
    """A job's state as its files tell it. What was seen done is not read again."""
    status: Status = "done" if task.state == "done" else job_status(task.folder, task.job)
    note: str = status
    if status == "done":
        task.state = "done"
    elif status == "failed":
        failure = read_object(task.folder.failure_json)
        note = failed_words(str(failure.get("kind")), str(failure.get("message")))
    return make_row(task.job.id, task.name, status, note, task.folder if status == "running" else None)

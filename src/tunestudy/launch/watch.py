"""`watch`: the live table of a study that runs elsewhere, from files alone."""

import time
from collections.abc import Sequence
from pathlib import Path

from tunestudy.config.errors import Exit
from tunestudy.launch.outcome import failed_words, read_object
from tunestudy.launch.presence import launchers
from tunestudy.launch.show import Display, Row, make_row, open_display, summary
from tunestudy.launch.task import Task
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan
from tunestudy.study.state import Status, job_status

POLL_S = 0.5


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
    while True:
        launching = bool(launchers(study))
        rows = [look(task) for task in tasks]
        display.update(rows)
        if not launching and not any(row.state == "running" for row in rows):
            return rows
        time.sleep(POLL_S)


def look(task: Task) -> Row:
    """A job's state as its files tell it. What was seen done is not read again."""
    status: Status = "done" if task.state == "done" else job_status(task.folder, task.job)
    note: str = status
    if status == "done":
        task.state = "done"
    elif status == "failed":
        failure = read_object(task.folder.failure_json) or {}
        note = failed_words(str(failure.get("kind")), str(failure.get("message")))
    return make_row(task.job.id, task.name, status, note, task.folder if status == "running" else None)

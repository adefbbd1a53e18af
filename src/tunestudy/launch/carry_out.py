"""The loop with its surroundings: signals, presence, journal, display; then what failed."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.launch.alerts.watchman import Watchman
from tunestudy.launch.executor import Launch, execute
from tunestudy.launch.failures import print_failures
from tunestudy.launch.outcome import is_complete, is_trained
from tunestudy.launch.place import Place
from tunestudy.launch.queue import Queue, unknown_works
from tunestudy.launch.show import open_display, row_of, summary
from tunestudy.launch.task import Task
from tunestudy.launch.trackers.start import Sinks
from tunestudy.launch.uploads import uploading
from tunestudy.records.events import Journal
from tunestudy.records.host import host_name
from tunestudy.records.launchers import present, writer_name
from tunestudy.records.layout import StudyDir
from tunestudy.records.stop import StopRequest
from tunestudy.study.packing.dispatch import Work

GONE = (
    "was moved or deleted while jobs ran, so they were stopped; what they have written since may lie there in a new "
    "folder. Put the results back, or name the folder that they are in now with --results, and run again to continue"
)


def carry_out(
    study: Study,
    jobs: Sequence[Job],
    folder: StudyDir,
    *,
    place: Place,
    quiet: bool,
    works: Mapping[str, Work] | None = None,
    remakes: bool = False,
    uploads: bool = True,
    hurry: bool = True,
) -> Exit:
    """Run `jobs` of a study at `place`; returns how it ended, with failures printed.

    `works`: what is known of their times and memory, by job id; None: nothing. `remakes`: `jobs` name their parents, so
    that a folder that was deleted can be made again. `uploads`: push to the hub beside them what is to be pushed.
    `hurry`: a second signal, while jobs save and leave, kills them.
    Raises StudyError, when jobs have left, where the folder was moved or deleted meanwhile.
    """
    tasks = tasks_of(folder, jobs)
    with (
        stop_on_signals() as stop,
        present(folder, [job.id for job in jobs]),
        Journal(folder.events, writer_name()) as journal,
        uploading(
            jobs if uploads else (), folder, env=study.env, wait_s=study.resources.push_wait_s, stop=stop, quiet=quiet
        ),
        open_display(quiet=quiet) as display,
    ):
        _print_what_is_left(tasks, place, quiet=quiet)
        journal.write("run_started", pid=os.getpid(), host=host_name())
        watchman = Watchman(study, folder, journal, display.alert)

        def show(now: Sequence[Task]) -> None:
            display.update([row_of(task) for task in now])
            watchman.look(now)

        launch = Launch(
            study=folder,
            resources=study.resources,
            env={**patience(study.resources), **study.env},
            place=place,
            queue=Queue(works or unknown_works(jobs), place.slots),
            journal=journal,
            show=show,
            tell=display.alert,
            remakes=remakes,
            may_hurry=hurry,
        )
        sinks = Sinks(study, jobs, folder)
        code = execute(tasks, launch, stop)
        untold = sinks.close()
        watchman.close(tasks)
        journal.write("run_finished", status=code.name.lower())
    if journal.lost:
        raise StudyError(str(folder.root), GONE, exit_code=Exit.PREFLIGHT_REFUSED)
    _print_end(tasks, code, untold)
    return code


def _print_what_is_left(tasks: Sequence[Task], place: Place, *, quiet: bool) -> None:
    left = sum(task.state != "done" for task in tasks)
    slots = f", {len(place.slots)} at a time on {host_name()}" if left else ""
    if not quiet:
        print(f"{left} of {len(tasks)} jobs to do{slots}", flush=True)


def _print_end(tasks: Sequence[Task], code: Exit, untold: Sequence[str]) -> None:
    """`untold`: what did not reach trackers, in words."""
    if code == Exit.INTERRUPTED:
        print(f"interrupted: {summary(row_of(task) for task in tasks)}; run again to continue")
    print_failures(tasks)
    for words in untold:
        print(words, file=sys.stderr)


def tasks_of(study: StudyDir, jobs: Sequence[Job]) -> list[Task]:
    """The jobs with what their files say."""
    tasks = [Task(job, study.job(job.id)) for job in jobs]
    for task in tasks:
        task.trained = is_trained(task.job, task.folder)
        if is_complete(task.job, task.folder):
            task.state = "done"
    return tasks


def patience(resources: Resources) -> dict[str, str]:
    """How long processes wait for each other, as they are told in their environment."""
    waits = {"TUNESTUDY_TIMEOUT_S": resources.timeout_s, "TUNESTUDY_SILENCE_S": resources.host_silence_s}
    return {name: f"{seconds:g}" for name, seconds in waits.items()}


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM and a hang-up ask to stop meanwhile; under `--detach` and nohup a hang-up stays ignored."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield StopRequest.on_signals(*numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

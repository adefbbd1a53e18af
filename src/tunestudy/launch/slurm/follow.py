"""`run` with `executor: slurm`: submit what is missing, watch, top up, and say what became of everything.

The files of the jobs are the truth. SLURM's queue tells what waits and where it runs, and, of a submission that left it
without publishing anything, why.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunestudy.config.errors import Exit
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.alerts.feed import AlertFeed, alert_words
from tunestudy.launch.carry_out import stop_on_signals, tasks_of
from tunestudy.launch.executor import block_children_of_failed, has_weights
from tunestudy.launch.failures import exit_of, print_failures
from tunestudy.launch.outcome import failed_words, is_complete
from tunestudy.launch.retry import spent
from tunestudy.launch.show import Display, open_display, row_of, summary
from tunestudy.launch.slurm.commands import SlurmError, ask
from tunestudy.launch.slurm.left import Verdict, verdict_on
from tunestudy.launch.slurm.queue import Queued, live_jobs, read_queue
from tunestudy.launch.slurm.submit import Submitter, refused
from tunestudy.launch.task import Task
from tunestudy.launch.uploads import uploading
from tunestudy.records.atomic import read_object
from tunestudy.records.events import Journal
from tunestudy.records.host import host_name
from tunestudy.records.launchers import present, writer_name
from tunestudy.records.layout import StudyDir
from tunestudy.records.stop import StopRequest
from tunestudy.study.state import is_running

FIRST_POLL_S, LAST_POLL_S = 1.0, 15.0
"""How often SLURM is asked: less and less while nothing changes, as its controller serves everybody."""
_LOOK_S = 0.2
_SETTLE_S = 10.0


@dataclass(frozen=True)
class Seen:
    """A submission of a job that was in the queue."""

    slurm_id: str
    failed_before: int | None
    """The attempt of failure.json then: another one later is this submission's."""


@dataclass(kw_only=True)
class Follower:
    """One `run` on a login node."""

    study: StudyDir
    tasks: Sequence[Task]
    resources: Resources
    submitter: Submitter
    seen: dict[str, Seen] = field(default_factory=dict)
    """Job id → its submission in the queue."""
    silent: bool = False
    """Whether the controller did not answer lately."""
    in_doubt: set[str] = field(default_factory=set)
    """Submissions that the controller may have forgotten while it was away."""

    def round(self) -> bool:
        """Look at files and queue, submit what can be; returns whether anything is left to wait for.

        StudyError when SLURM refuses for a reason that waiting does not cure.
        """
        for task in self.tasks:
            if task.state != "done" and is_complete(task.job, task.folder):
                task.state, task.note = "done", "done"
        queue: list[Queued] | None = None
        try:
            queue = read_queue(self.study)
            self._judge_all(queue)
            self._send()
            self.silent = False
        except SlurmError as error:
            if not error.is_away:
                raise refused(error, self.study) from error
            if not self.silent:
                print(f"SLURM's controller does not answer ({error}); jobs go on, it is asked again", flush=True)
            self.silent = True
            self.in_doubt |= {seen.slurm_id for seen in self.seen.values()} if queue is None else set()
            return True
        moving = any(task.state in ("queued", "running", "elsewhere") for task in self.tasks)
        if moving:
            return True
        waiting = [task for task in self.tasks if task.state == "waiting"]
        # what others sent and saw done since this round began is the next round's to tell
        return any(self.submitter.full or is_complete(task.job, task.folder) for task in waiting)

    def _judge_all(self, queue: list[Queued]) -> None:
        live = live_jobs(queue)
        for task in self.tasks:
            if task.state in ("done", "failed", "blocked", "interrupted"):
                continue
            entry = live.get(task.job.id)
            if entry is not None and entry.lost_its_parents:
                self._drop(task, entry)
            elif entry is not None:
                self._in_queue(task, entry)
            elif is_running(task.folder):
                task.state, task.note = "elsewhere", "still running, or carried out by someone else"
            elif (seen := self.seen.get(task.job.id)) is not None:
                doubt, before = seen.slurm_id in self.in_doubt, seen.failed_before
                verdict = verdict_on(
                    task.job, self.study, queue, seen.slurm_id, failed_before=before, controller_was_away=doubt
                )
                del self.seen[task.job.id]  # not before: SLURM may not have answered
                self._left(task, verdict)
            else:
                task.state = "waiting"
        block_children_of_failed(self.tasks, {task.job.id: task for task in self.tasks})

    def _drop(self, task: Task, entry: Queued) -> None:
        """Cancel a submission whose parents failed: a site may keep it for ever, whatever sbatch was told."""
        try:
            ask("scancel", entry.id)
        except SlurmError as error:
            if error.is_away:
                raise
            if "denied" in str(error).lower():
                cure = "whoever submitted it has to cancel it (`tunestudy stop`)"
                task.state, task.note = "interrupted", f"{entry.in_words}; {cure}"
                return
        task.state, task.note = "waiting", entry.in_words

    def _in_queue(self, task: Task, entry: Queued) -> None:
        self.seen.setdefault(task.job.id, Seen(entry.id, failed_attempt(task)))
        self.in_doubt.discard(entry.id)
        runs = is_running(task.folder) if entry.is_shared else not entry.is_pending
        task.state, task.note = "running" if runs else "queued", entry.words_on(runs=runs)

    def _left(self, task: Task, verdict: Verdict) -> None:
        """What becomes of a job whose submission is over."""
        task.note = verdict.message
        if verdict.outcome == "stopped" and self._lost_its_parents(task):
            task.state, task.note = "waiting", "SLURM cancelled it with a job that it starts from"
        elif verdict.outcome == "failed":
            task.failures.append(verdict.as_outcome)
            task.state, task.note = "failed", failed_words(verdict.kind, verdict.message)
        elif verdict.outcome == "again":
            self._again(task, verdict)
        else:
            task.state = "interrupted"

    def _again(self, task: Task, verdict: Verdict) -> None:
        """Have it submitted anew unless that was in vain too often. A chain of time limits is no failure: it may be as
        long as it likes, as long as it gets somewhere."""
        facts = {"slurm_id": verdict.slurm_id, "jobs": [task.job.id], "kind": verdict.kind}
        self.submitter.journal.write("slurm_lost", **facts, message=verdict.message)
        task.state = "waiting"
        if verdict.went_on:
            return
        task.failures.append(verdict.as_outcome)
        of_kind = sum(failure.kind == verdict.kind for failure in task.failures)
        task.given_up = spent(verdict.as_outcome, of_kind, len(task.failures), self.resources)
        task.state = "failed" if task.given_up else "waiting"

    def _lost_its_parents(self, task: Task) -> bool:
        """Whether a job that it needs is neither trained nor on its way: then SLURM drops it from the queue."""
        by_id = {other.job.id: other for other in self.tasks}
        on_the_way = ("queued", "running", "elsewhere")
        return any(not has_weights(by_id[need]) and by_id[need].state not in on_the_way for need in task.job.needs)

    def _send(self) -> None:
        waiting = [task for task in self.tasks if task.state == "waiting"]
        if not waiting:
            return
        trained = {task.job.id: has_weights(task) for task in self.tasks}
        sent = self.submitter.send([task.job for task in waiting], trained)
        for task in waiting:
            if (number := sent.get(task.job.id)) is not None:
                self.seen[task.job.id] = Seen(number, failed_attempt(task))
                task.state, task.note = "queued", f"queued as {number}"


def failed_attempt(task: Task) -> int | None:
    """The attempt that failure.json tells of."""
    attempt = read_object(task.folder.failure_json).get("attempt")
    return attempt if isinstance(attempt, int) else None


def follow(study: StudyDir, jobs: Sequence[Job], resources: Resources, *, has_gpus: bool, quiet: bool) -> Exit:
    """Submit and watch until everything is done or nothing more can be; a signal ends the watching alone."""
    tasks = tasks_of(study, jobs)
    with (
        stop_on_signals() as stop,
        present(study, [job.id for job in jobs]),
        Journal(study.events, writer_name()) as journal,
        uploading(jobs, study, env={}, wait_s=resources.push_wait_s, stop=stop, quiet=quiet),
        open_display(quiet=quiet) as display,
    ):
        journal.write("run_started", pid=os.getpid(), host=host_name(), executor="slurm")
        submitter = Submitter(study=study, resources=resources, has_gpus=has_gpus, journal=journal)
        follower = Follower(study=study, tasks=tasks, resources=resources, submitter=submitter)
        if not quiet:
            left = sum(task.state != "done" for task in tasks)
            print(f"{left} of {len(tasks)} jobs to do, by SLURM; files and output: {study.slurm.root}", flush=True)
        code = _until_done(follower, stop, display)
        journal.write("run_finished", status=code.name.lower())
    if code == Exit.INTERRUPTED:
        print(f"interrupted: {summary(row_of(task) for task in tasks)}; {_how_to_go_on(tasks, stop)}")
    print_failures(tasks)
    return code


def submit_once(
    study: StudyDir, jobs: Sequence[Job], resources: Resources, *, has_gpus: bool
) -> tuple[list[Task], str]:
    """One round without watching: the tasks as they are then, and why not all were taken, if so."""
    tasks = tasks_of(study, jobs)
    with Journal(study.events, f"{writer_name()}-submit") as journal:
        submitter = Submitter(study=study, resources=resources, has_gpus=has_gpus, journal=journal)
        follower = Follower(study=study, tasks=tasks, resources=resources, submitter=submitter)
        follower.round()
    if follower.silent:
        raise refused(SlurmError("unable to contact slurm controller"), study)
    return tasks, submitter.full


def settle(study: StudyDir) -> None:
    """Wait a moment for submissions whose jobs are done to be over: their last words belong to the report."""
    give_up = time.monotonic() + _SETTLE_S
    while time.monotonic() < give_up:
        try:
            if not any(entry.is_live for entry in read_queue(study)):
                return
        except SlurmError:
            return  # it is no matter of waiting for, then
        time.sleep(_LOOK_S)


def _until_done(follower: Follower, stop: StopRequest, display: Display) -> Exit:
    pause_s, before, feed = FIRST_POLL_S, "", AlertFeed(follower.study.events)
    feed.new()  # those of earlier runs
    while True:
        going_on = follower.round()
        rows = [row_of(task) for task in follower.tasks]
        display.update(rows)
        for alert in feed.new():
            display.alert(alert_words(alert))
        now = summary(rows)
        pause_s, before = (FIRST_POLL_S if now != before else min(LAST_POLL_S, pause_s * 1.5)), now
        if not going_on or stop or follower.study.slurm.stopped.exists():
            break
        _wait(pause_s, follower, stop, display)
    return exit_of(follower.tasks, stopped=bool(stop) or follower.study.slurm.stopped.exists())


def _wait(pause_s: float, follower: Follower, stop: StopRequest, display: Display) -> None:
    """Between two looks at the queue the progress of what runs is shown."""
    end = time.monotonic() + pause_s
    while time.monotonic() < end and not stop and not follower.study.slurm.stopped.exists():
        time.sleep(min(_LOOK_S, pause_s))
        if any(task.state == "running" and is_complete(task.job, task.folder) for task in follower.tasks):
            return
    display.update([row_of(task) for task in follower.tasks])


def _how_to_go_on(tasks: Sequence[Task], stop: StopRequest) -> str:
    if stop and any(task.state in ("queued", "running") for task in tasks):
        return "what is submitted goes on: `tunestudy watch` shows it, `stop` ends it, `run` follows it again"
    return "run again to continue"

"""The one loop that carries a plan out.

State lives in files, never only here: whatever is killed, the next `run` reads the job directories and goes on.
A job is protected from running twice by two leases. The launcher takes the job's `claim` before it starts anything
and names torchrun as its keeper, so the claim outlives a killed launcher for as long as the job's processes live.
Rank 0 takes the job's `lease` itself.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.config.errors import Exit
from tunestudy.config.resources import Resources
from tunestudy.launch.ending import clean_logs, outcome_of, write_down, write_down_failure
from tunestudy.launch.failures import exit_of
from tunestudy.launch.hang import Patience, SignsOfLife, end_if_it_hangs
from tunestudy.launch.local import Slot
from tunestudy.launch.orphans import end_orphan_if_it_hangs, kill_orphan, orphan_of, stop_orphan
from tunestudy.launch.outcome import Outcome, is_complete, is_trained, log_sizes, memory_kills
from tunestudy.launch.place import Place
from tunestudy.launch.prepare import write_job
from tunestudy.launch.queue import Queue
from tunestudy.launch.retry import verdict_on
from tunestudy.launch.task import Attempt, Task
from tunestudy.launch.torchrun import job_environment
from tunestudy.records.adjusted import read_adjusted, write_adjusted
from tunestudy.records.atomic import read_object
from tunestudy.records.events import Journal, read_events
from tunestudy.records.host import machine
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.space import is_full
from tunestudy.records.stop import StopRequest
from tunestudy.report.format import plural

POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What the loop works with, fixed while it runs."""

    study: StudyDir
    resources: Resources
    env: Mapping[str, str]
    """The study's `env:`."""
    place: Place
    queue: Queue
    journal: Journal
    show: Callable[[Sequence[Task]], None]
    """Called after every round with all tasks."""
    tell: Callable[[str], None]
    """Says a line to whoever sits in front of it."""
    remakes: bool = False
    """Whether tasks hold their jobs whole, so that the folder of one that was deleted can be made again. Where it is
    known that parents are trained, jobs come without them, and would start from the model that nobody trained."""
    may_hurry: bool = True
    """Whether a second signal, while jobs save and leave, kills them. SLURM tells processes twice, and kills itself."""


def execute(tasks: Sequence[Task], launch: Launch, stop: StopRequest) -> Exit:
    """Run every task that is not done, parents before children, until nothing more can run or `stop` is wanted.

    It is wanted, too, when the study's folder is not there any more (`Journal.lost`).
    """
    by_id = {task.job.id: task for task in tasks}
    while launch.journal.look():
        collect_ended(tasks, launch, stopping=bool(stop))
        look_elsewhere(tasks, launch)
        block_children_of_failed(tasks, by_id)
        end_pauses(tasks)
        if stop or launch.journal.lost:
            break
        start_ready(tasks, by_id, launch)
        launch.show(tasks)
        if not any(task.state in ("waiting", "paused", "running", "elsewhere") for task in tasks):
            break
        time.sleep(POLL_S)
    stop.wanted = stop.wanted or launch.journal.lost
    if stop:
        stop_running(tasks, launch)
    launch.show(tasks)
    return exit_of(tasks, stopped=bool(stop))


def start_ready(tasks: Sequence[Task], by_id: Mapping[str, Task], launch: Launch) -> None:
    """Start waiting tasks whose parents are trained on free slots of this machine, in the order of the packing.

    No slot is left free for a better one while a task could start on it.
    """
    if all(task.state != "waiting" for task in tasks):
        return
    if sum(task.attempt is not None for task in tasks) >= len(launch.place.slots):
        return
    ready = [task for task in tasks if task.state == "waiting" and parents_are_trained(task, by_id)]
    ranked = launch.queue.ranked(ready, tasks) if ready else []
    for slot, lease in free_slots(tasks, launch) if ranked else ():
        if not start_first(ranked, slot, lease, tasks, launch):
            lease.release()
        if not ranked:
            return


def start_first(ranked: list[Task], slot: Slot, lease: Lease, tasks: Sequence[Task], launch: Launch) -> bool:
    """Start the first task that fits on `slot` and is nobody else's; takes from `ranked` what is settled by that."""
    for task in list(ranked):
        if not launch.queue.fits(task, slot, tasks):
            continue
        ranked[:] = [other for other in ranked if other is not task]
        claim = claim_task(task)
        if claim is not None:
            start_attempt(task, launch, slot, lease, claim)
            return True
    return False


def parents_are_trained(task: Task, by_id: Mapping[str, Task]) -> bool:
    """Benchmarks of a parent may still be running, or have failed: children only need its weights."""
    return all(has_weights(by_id[parent]) for parent in task.job.needs)


def has_weights(task: Task) -> bool:
    """Whether the job's result is published. Files are asked only while that can change: plans have 10,000 jobs."""
    if not task.trained and task.state in ("running", "elsewhere", "failed", "done"):
        task.trained = is_trained(task.job, task.folder)
    return task.trained


def free_slots(tasks: Sequence[Task], launch: Launch) -> Iterator[tuple[Slot, Lease]]:
    """Slots that neither this launcher nor another one on this machine is using, each with its lease taken.

    In different allocations of SLURM on one machine the same name may mean different GPUs.
    """
    used = {task.attempt.slot for task in tasks if task.attempt}
    here = "_".join([machine().replace("/", "_"), *filter(None, [os.environ.get("SLURM_JOB_ID")])])
    for slot in launch.place.slots:
        if slot not in used:
            try:
                yield slot, Lease.acquire(launch.study.leases / "slots" / here / slot.name)
            except LeaseHeldError:
                continue


def claim_task(task: Task) -> Lease | None:
    """The right to start a task; None (and its new state) when it is done by now or someone else is at it."""
    try:
        claim = Lease.acquire(task.folder.claim)
    except LeaseHeldError as held:
        task.state, task.note = "elsewhere", f"started by {held.holder}"
        task.seen_claim = None if held.holder.is_gone else held.holder.attempt
        return None
    worker = Lease.holder(task.folder.lease)
    if worker is not None:
        task.state, task.note, task.seen_claim = "elsewhere", f"still running as {worker}", None
    elif is_complete(task.job, task.folder):
        task.state, task.note = "done", "done by another run"
    else:
        return claim
    claim.release()
    return None


def start_attempt(task: Task, launch: Launch, slot: Slot, slot_lease: Lease, claim: Lease) -> None:
    """Start the job's processes on `slot`."""
    clean_logs(task)
    log_start = log_sizes(task.folder)
    environment = job_environment(launch.env, slot.environment, claim.attempt)
    killed = memory_kills()
    left = last_sign_of(task)
    task.folder.failure_json.unlink(missing_ok=True)
    if launch.remakes and not task.folder.job_json.is_file():  # `clean` was here before this run was listed
        write_job(task.job, task.folder)
    running = launch.place.start(task.folder, slot, environment, task.folder.launch_log)
    claim.note(keeper=running.pid, slot=slot.name)
    slot_lease.note(keeper=running.pid, job=task.job.id)
    signs = SignsOfLife(log_start=log_start)
    task.attempt = Attempt(running, claim, slot, slot_lease, time.monotonic(), log_start, killed, signs)
    which = f", attempt {claim.attempt}" * (claim.attempt > 1 and bool(task.failures or not task.trained))
    what = "scoring started" if task.trained and task.job.settings is not None else "started"
    task.state, task.note = "running", f"{what} on {slot.name}{which}"
    if why := read_adjusted(task.folder).why:
        task.note += f"; {why}"
    facts = {"slot": slot.name, "world_size": slot.ranks, "pid": running.pid, **left}
    launch.journal.write("job_started", job=task.job.id, attempt=claim.attempt, **facts)


def last_sign_of(task: Task) -> dict[str, Any]:
    """`left`: the attempt before this one and when it was last seen alive, which its processes cannot tell again."""
    told = read_object(task.folder.progress_json)
    return {"left": {name: told[name] for name in ("attempt", "t")}} if {"attempt", "t"} <= told.keys() else {}


def collect_ended(tasks: Sequence[Task], launch: Launch, *, stopping: bool) -> None:
    """Take in what became of every attempt whose processes have ended, and start again what deserves it."""
    for task in tasks:
        attempt = task.attempt
        if attempt is None:
            continue
        if attempt.running.poll() is None:
            if not stopping and not attempt.running.waits:
                patience = Patience.of(launch.resources)
                end_if_it_hangs(attempt.signs, attempt.running, task.folder, attempt.number, patience)
                task.note = attempt.signs.outlived or task.note
            continue
        if not launch.journal.look(at_once=True):
            task.state, task.note = "interrupted", "its folder is gone"
            leave(task)
            continue
        worker = Lease.holder(task.folder.lease)
        if worker is not None and not is_complete(task.job, task.folder):
            # torchrun alone was killed, or ranks that another launcher started were faster: those ranks carry on
            task.state, task.note, task.seen_claim = "elsewhere", f"still running as {worker}", None
            leave(task)
            continue
        outcome = outcome_of(task, attempt, stopping=stopping)
        write_down(task, attempt, outcome, launch.study, launch.journal)
        if outcome.failed and not stopping:
            try_again_or_leave(task, launch)
        else:
            leave(task)


def try_again_or_leave(task: Task, launch: Launch) -> None:
    """Start a failed job again at once, or after a pause in which others use its slot, or give it up."""
    attempt, last = task.attempt, task.failures[-1]
    assert attempt is not None
    verdict = verdict_on(task.failures, task.job, task.folder, launch.resources, ranks=attempt.slot.ranks)
    task.given_up = "" if verdict.again else verdict.words
    if not verdict.again:
        leave(task)
        return
    if verdict.adjusted is not None:
        write_adjusted(task.folder, verdict.adjusted)
    about = {"job": task.job.id, "attempt": attempt.number, "kind": last.kind, "step": last.step}
    told = {"reason": last.message, "change": verdict.words, "wait_s": verdict.wait_s}
    launch.journal.write("job_retried", **about, **told)
    because = verdict.words or f"the last one failed ({last.kind}): {last.message}"
    if verdict.wait_s:
        leave(task)
        task.state, task.pause_ends = "paused", time.monotonic() + verdict.wait_s
        task.note = f"starts again in {verdict.wait_s:.0f} s, as {because}"
        return
    start_attempt(task, launch, attempt.slot, attempt.slot_lease, attempt.claim.renew())
    task.note = f"{task.note}, as {because}" if verdict.adjusted is None else task.note


def end_pauses(tasks: Sequence[Task]) -> None:
    """Jobs whose pause is over wait for a slot again; not those that paused for room, of which there still is none."""
    for task in tasks:
        if task.state != "paused" or time.monotonic() < task.pause_ends:
            continue
        if task.failures[-1].kind == "disk" and is_full(task.folder.root):
            task.given_up = "its pause is over and there still was no room, so it was not started again"
            task.state, task.note = "failed", task.given_up
        else:
            task.state, task.note = "waiting", "its pause is over"


def leave(task: Task) -> None:
    """Give back the slot and the claim."""
    assert task.attempt is not None
    task.attempt.claim.release()
    task.attempt.slot_lease.release()
    task.attempt = None


def look_elsewhere(tasks: Sequence[Task], launch: Launch) -> None:
    """See whether jobs that run without being ours have ended, and take over those that were left unfinished.

    Those whose launcher is gone are watched as ours are.
    """
    for task in tasks:
        if task.state != "elsewhere":
            continue
        if Lease.holder(task.folder.claim) is not None or Lease.holder(task.folder.lease) is not None:
            end_orphan_if_it_hangs(task.signs, task.folder, Patience.of(launch.resources))
            task.note = task.signs.outlived or task.note
            continue
        clean_logs(task)
        failure = failure_told_by_others(task, launch)
        if is_complete(task.job, task.folder):
            task.state, task.note = "done", "done by another run"
        elif task.signs.hang:
            take_in_hang(task, tasks, launch)
        elif failure is None:
            task.state, task.note = "waiting", "left unfinished"
            attempt = read_object(task.folder.progress_json).get("attempt")
            reason = "its processes ended without finishing it"
            launch.journal.write("job_retried", job=task.job.id, attempt=attempt, reason=reason)
        else:
            task.failures.append(failure)
            task.state, task.note = "failed", f"failed in another run: {failure.message}"


def take_in_hang(task: Task, tasks: Sequence[Task], launch: Launch) -> None:
    """Write down that a job which another launcher had started stood still and was ended from here, and go on."""
    signs, task.signs = task.signs, SignsOfLife()
    number, step, rank = signs.attempt, signs.step, signs.rank
    outcome = Outcome(kind="hang", message=signs.hang, step=step, rank=rank, phase=signs.phase, attempt=number)
    write_down_failure(task, number, outcome, launch.study, launch.journal)
    launch.show(tasks)  # it may start again before the next time
    verdict = verdict_on(task.failures, task.job, task.folder, launch.resources, ranks=launch.place.slots[0].ranks)
    task.given_up = verdict.words
    if verdict.again:
        task.state, task.note = "waiting", "starts again"
        about = {"job": task.job.id, "attempt": number, "kind": outcome.kind, "step": step}
        launch.journal.write("job_retried", **about, reason=outcome.message, change="", wait_s=0.0)


def failure_told_by_others(task: Task, launch: Launch) -> Outcome | None:
    """The failure that made another, living launcher give the job up while this one was waiting for it."""
    if task.seen_claim is None:
        return None
    told = (event for event in read_events(launch.study.events) if event.get("job") == task.job.id)
    others = [event for event in told if event["writer"] != launch.journal.writer]
    # whoever takes over what never began knows of no attempt
    last = next((event for event in reversed(others) if (event.get("attempt") or 0) >= task.seen_claim), None)
    if last is None or last["event"] != "job_failed":
        return None
    facts = {name: last[name] for name in ("kind", "message", "signal", "exit_code", "step")}
    return Outcome(**facts, by_expectation=last.get("by_expectation", False))


def block_children_of_failed(tasks: Sequence[Task], by_id: Mapping[str, Task]) -> None:
    """A child of a job that failed before its weights were there cannot run.

    Tasks come parents first, so one pass reaches grandchildren.
    """
    for task in tasks:
        parents = [by_id[parent] for parent in task.job.needs] if task.state == "waiting" else []
        lost = [parent for parent in parents if parent.state in ("failed", "blocked") and not has_weights(parent)]
        if lost:
            task.state, task.blocked_by = "blocked", lost[0].blocked_by or lost[0].job.id
            task.note = f"cannot run: {task.blocked_by} failed"


def stop_running(tasks: Sequence[Task], launch: Launch) -> None:
    """Ask all processes of these tasks to save and leave, and kill those that do not within `stop_grace_s`.

    A second signal while waiting kills at once.
    """
    orphans = {
        task.job.id: orphan for task in tasks if task.state == "elsewhere" and (orphan := orphan_of(task.folder))
    }
    for orphan in orphans.values():
        stop_orphan(orphan)
    for task in tasks:
        if task.attempt:
            task.attempt.running.ask_to_stop()
    hurry = StopRequest.on_signals(signal.SIGINT, signal.SIGTERM)
    running = sum(bool(task.attempt) or task.job.id in orphans for task in tasks)
    if running and not launch.journal.lost:
        again = "; a second signal (Ctrl-C) kills what runs" if launch.may_hurry else ""
        at_most = f"{launch.resources.stop_grace_s:g} s at most"
        launch.tell(f"stopping: {plural(running, 'job')} may save, {at_most}{again}")
    give_up = time.monotonic() + launch.resources.stop_grace_s
    while any(task.attempt or (task.job.id in orphans and orphan_of(task.folder)) for task in tasks):
        launch.show(tasks)
        if (hurry and launch.may_hurry) or time.monotonic() > give_up:
            for task in tasks:
                if task.attempt:
                    task.attempt.running.kill()
            for orphan in orphans.values():
                kill_orphan(orphan)
        time.sleep(POLL_S)
        collect_ended(tasks, launch, stopping=True)

"""What `tunestudy run` does: pools drawn here → plan → checks → files → the loop → failures → report.

`run` is also resume: whatever is done stays done, whatever is missing is made.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.detach import detach as go_on_detached
from tunestudy.launch.detach import typed_again
from tunestudy.launch.estimates.schedule import memory_of
from tunestudy.launch.estimates.tell import tell_time
from tunestudy.launch.local import planned_slots
from tunestudy.launch.place import Place, ThisMachine
from tunestudy.launch.placing import place_for
from tunestudy.launch.prepare import prepare
from tunestudy.launch.presence import neighbours_in_words
from tunestudy.launch.queue import unknown_works
from tunestudy.launch.requests.fetch_images import fetch_drawn
from tunestudy.launch.select import select
from tunestudy.launch.slurm.run import run_by_slurm
from tunestudy.launch.torchrun import Command, command_here
from tunestudy.preflight.checks import check
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import write_lock
from tunestudy.records.space import free_text, told_of
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan


def run_study(
    loaded: LoadedStudy,
    results: Path,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    detach: bool = False,
    quiet: bool = False,
    estimate: bool = False,
    command: Command | None = None,
    report: bool = True,
) -> Exit:
    """Carry out what is missing of a study and report it, after saying how long that will take.

    `only`: `VARIANT` or `VARIANT@STAGE`; `seeds`: a part of the study's. `estimate`: first time some steps of what
    nothing is known of. `command` starts one job (tests replace it); default: torchrun, here or on all hosts.
    `report`: write it when something ran.
    Raises StudyError when the study, the machine or the results folder cannot do it: nothing has been started then.
    """
    code = fetch_drawn(loaded, results)
    if code != Exit.DONE:
        return code
    plan = make_plan(loaded, results)
    chosen = select([planned.job for planned in plan.jobs], only, seeds)
    place = _place_of(chosen, plan, loaded, command)
    _check_and_write(chosen, plan, loaded, place)
    whole = len(chosen) == len(plan.jobs)
    finish = partial(_reported, study=plan.folder, report=report, quiet=quiet, whole=whole)
    schedule = tell_time(plan, loaded, estimate=estimate, quiet=quiet, only={job.id for job in chosen})
    if place is None:
        return run_by_slurm(loaded, results, chosen, detach=detach, quiet=quiet, finish=finish)
    works = {**unknown_works(chosen), **schedule.works}

    def work() -> Exit:
        for line in () if quiet else neighbours_in_words(plan.folder):
            print(line, flush=True)
        try:
            code = carry_out(loaded.study, chosen, plan.folder, place=place, quiet=quiet, works=works, remakes=True)
        except OSError as error:
            why = f"{told_of(error, plan.folder.root)}, {free_text(plan.folder.root)}"
            cause = f"cannot be written any more: {why}; running jobs go on, run again to continue"
            raise StudyError(str(plan.folder.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
        return finish(code)

    if not detach:
        return work()
    tell_detached(go_on_detached(work, plan.folder.run_log), loaded, results, plan.folder)
    return Exit.DONE


def _place_of(jobs: Sequence[Job], plan: Plan, loaded: LoadedStudy, command: Command | None) -> Place | None:
    """Where the loop starts `jobs`; None where SLURM places them. Raises StudyError where not even one of them fits.

    What is done needs no place: no GPUs, no cluster, no allocation. SLURM is asked all the same what its jobs took.
    """
    resources = loaded.study.resources
    if resources.executor == "slurm":
        return None
    if not _unfinished(jobs, plan):
        return ThisMachine(planned_slots(resources), command or command_here)
    memory = memory_of(plan)
    smallest = min((memory[job.id] for job in jobs if job.id in memory), default=None)
    return place_for(loaded, command, smallest_mb=smallest)


def _check_and_write(chosen: Sequence[Job], plan: Plan, loaded: LoadedStudy, place: Place | None) -> None:
    """Refuse what cannot run, and put the plan on disk with the lock that its data came by. Raises StudyError."""
    unfinished = _unfinished(chosen, plan)
    check(loaded, unfinished, plan.folder)
    if unfinished and place is not None:
        assert place.slots, "a place has a slot, or says why not"  # a cluster is asked only now
    source = loaded.path.read_bytes()
    prepare(loaded.study, source, [planned.job for planned in plan.jobs], plan.as_json(), plan.folder)
    if loaded.locking is not None and loaded.locking.lock is not None:
        write_lock(plan.folder.lock, loaded.locking.lock)


def _unfinished(chosen: Sequence[Job], plan: Plan) -> list[Job]:
    mine = {job.id for job in chosen}
    return [planned.job for planned in plan.jobs if planned.status != "done" and planned.job.id in mine]


def tell_detached(pid: int, loaded: LoadedStudy, results: Path, study: StudyDir) -> None:
    """How to look at a run that goes on by itself, and how to end it."""
    name = typed_again(loaded, results)
    print(f"running as process {pid}; output goes to {study.run_log}")
    print(
        f"tunestudy watch {name}   shows it, and can be ended at any time\ntunestudy stop {name}   ends it gracefully"
    )


def _reported(code: Exit, *, study: StudyDir, report: bool, quiet: bool, whole: bool) -> Exit:
    """The exit code after the report; what it demands counts when it covers the `whole` study."""
    if code == Exit.INTERRUPTED or not report:
        return code
    from tunestudy.report.build import ReportBusyError, build_report  # whose statistics take a second to import

    try:
        met = build_report(study, quiet=quiet)
    except StudyError as error:
        if code == Exit.DONE and not isinstance(error, ReportBusyError):
            raise
        print(error, file=sys.stderr)  # what failed before weighs more, and often has the same cause
        return code
    return max(code, met) if whole else code

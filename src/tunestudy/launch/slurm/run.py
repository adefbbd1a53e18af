"""How `tunestudy run` goes with `executor: slurm`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.detach import detach as go_on_detached
from tunestudy.launch.detach import typed_again
from tunestudy.launch.slurm.accounting import keep_accounting
from tunestudy.launch.slurm.follow import follow, settle, submit_once
from tunestudy.preflight.slurm import partitions, wanted_partition
from tunestudy.records.layout import StudyDir
from tunestudy.records.space import told_of
from tunestudy.study.load import LoadedStudy


def run_by_slurm(
    loaded: LoadedStudy,
    results: Path,
    jobs: Sequence[Job],
    *,
    detach: bool,
    quiet: bool,
    finish: Callable[[Exit], Exit],
) -> Exit:
    """Hand what is missing to SLURM and watch it, or leave at once with `detach`. `finish`: the report, and its code.

    Detached, nothing of ours stays on the login node if SLURM took all jobs; else a process stays that sends the rest.
    """
    resources, study = loaded.study.resources, StudyDir(results / loaded.study.study)
    study.slurm.stopped.unlink(missing_ok=True)
    chosen = wanted_partition(resources, partitions())
    has_gpus = chosen is not None and chosen.has_gpus

    def work() -> Exit:
        try:
            code = follow(study, jobs, resources, has_gpus=has_gpus, quiet=quiet)
        except OSError as error:
            why = told_of(error, study.root)
            cause = f"cannot be written any more: {why}; what is submitted goes on, run again to continue"
            raise StudyError(str(study.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
        if code == Exit.DONE:
            settle(study)
        keep_accounting(study)
        return finish(code)

    if not detach:
        return work()
    tasks, full = submit_once(study, jobs, resources, has_gpus=has_gpus)
    name = typed_again(loaded, results)
    queued = [task for task in tasks if task.state in ("queued", "running")]
    if full:
        pid = go_on_detached(work, study.run_log)
        print(f"{len(queued)} jobs are in SLURM's queue, which takes no more for now ({full})")
        print(f"process {pid} sends the rest as others end; output goes to {study.run_log}")
    else:
        print(f"{len(queued)} jobs are in SLURM's queue; nothing of tunestudy stays on this machine")
    if not resources.slurm.requeue:
        print("slurm.requeue is false: a job that comes to its time limit waits for the next `tunestudy run`")
    print(f"tunestudy status {name}   shows them\ntunestudy stop {name}   ends them gracefully")
    print(f"tunestudy run {name}   follows them, sends again what was lost, and builds the report")
    return Exit.DONE

"""`tunestudy commands` with `executor: slurm`: the sbatch files, and the lines that submit them by hand."""

import shlex
import shutil
from collections.abc import Sequence

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.slurm.commands import SlurmError
from tunestudy.launch.slurm.mark import keep_mark
from tunestudy.launch.slurm.queue import ALLOCATION, read_queue
from tunestudy.launch.slurm.script import write_submission
from tunestudy.launch.slurm.submit import LEASE_WAIT_S, submissions_of
from tunestudy.preflight.slurm import partitions, wanted_partition
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError


def sbatch_lines(jobs: Sequence[Job], study: StudyDir, resources: Resources) -> list[str]:
    """A line of shell per submission; each keeps its number for those that wait for it."""
    try:
        with Lease.acquire(study.leases / "slurm", wait_s=LEASE_WAIT_S):
            keep_mark(study)
            if resources.slurm.mode == "allocation":
                _refuse_beside_an_allocation(study)
            return _lines(jobs, study, resources)
    except LeaseHeldError as error:
        cause = f"{error.holder} is submitting jobs of this study; try again when that is done"
        raise StudyError(str(study.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error


def _refuse_beside_an_allocation(study: StudyDir) -> None:
    """One that waits reads the list of its jobs when it starts: that may not be written anew under it."""
    try:
        queue = read_queue(study)
    except (SlurmError, StudyError):
        return  # a machine that cannot tell
    packed = next((entry for entry in queue if entry.is_live and entry.key == ALLOCATION), None)
    if packed is not None:
        cause = f"allocation {packed.id} is in SLURM's queue; wait for it, or end it with `tunestudy stop`"
        raise StudyError(study.root.name, cause, exit_code=Exit.PREFLIGHT_REFUSED)


def _lines(jobs: Sequence[Job], study: StudyDir, resources: Resources) -> list[str]:
    lines: list[str] = []
    numbers: dict[str, str] = {}
    ids = {job.id for job in jobs}
    trained = {need: need not in ids for job in jobs for need in job.needs}
    for place, one in enumerate(submissions_of(jobs, resources, trained)):
        path = write_submission(one, study, resources, has_gpus=has_gpus(resources))
        needs = sorted({numbers[need] for job in one.jobs for need in job.needs if need in numbers})
        wait_for = f" --dependency=afterok:{':'.join(needs)} --kill-on-invalid-dep=yes" if needs else ""
        lines.append(f"s{place}=$(sbatch --parsable{wait_for} {shlex.quote(str(path))})")
        if one.key != ALLOCATION:
            numbers |= {job.id: f"${{s{place}}}" + f"_{n}" * one.is_array for n, job in enumerate(one.jobs)}
    return lines


def has_gpus(resources: Resources) -> bool:
    """Whether the partition has any; taken for granted on a machine that cannot tell."""
    if shutil.which("sinfo") is None:
        return True
    try:
        chosen = wanted_partition(resources, partitions())
    except StudyError:
        return True
    return chosen is None or chosen.has_gpus

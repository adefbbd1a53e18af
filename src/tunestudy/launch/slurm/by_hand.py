"""`tunestudy commands` with `executor: slurm`: the sbatch files, and the lines that submit them by hand."""

import shlex
import shutil
from collections.abc import Sequence

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.slurm.mark import keep_mark
from tunestudy.launch.slurm.queue import ALLOCATION
from tunestudy.launch.slurm.script import write_submission
from tunestudy.launch.slurm.submit import LEASE_WAIT_S, submissions_of
from tunestudy.preflight.slurm import partitions, wanted_partition
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError


def sbatch_lines(jobs: Sequence[Job], study: StudyDir, resources: Resources) -> list[str]:
    """A line of shell per submission; each keeps its number for those that wait for it."""
    lines: list[str] = []
    numbers: dict[str, str] = {}
    try:
        with Lease.acquire(study.leases / "slurm", wait_s=LEASE_WAIT_S):
            keep_mark(study)
    except LeaseHeldError as error:
        cause = f"{error.holder} is submitting jobs of this study; try again when that is done"
        raise StudyError(str(study.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
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

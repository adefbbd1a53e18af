"""`tunestudy commands`: what to type on each host to run jobs by hand, where there is no ssh between hosts."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.launch.prepare import prepare
from tunestudy.launch.select import select
from tunestudy.launch.slurm.by_hand import sbatch_lines
from tunestudy.launch.torchrun import command_here, torchrun_on
from tunestudy.preflight.hosts import hosts_of
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.study.hosts import Host
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan


def command_lines(
    loaded: LoadedStudy, results: Path, *, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[str]:
    """One block per unfinished job, in an order that respects what starts from what: a line per host.

    The jobs' folders are written, as `run` would. It finds them done afterwards, and builds the report.
    """
    plan = make_plan(loaded, results)
    study = StudyDir(results / loaded.study.study)
    jobs = [planned.job for planned in plan.jobs]
    prepare(loaded.study, loaded.path.read_bytes(), jobs, plan.as_json(), study)
    done = {planned.job.id for planned in plan.jobs if planned.status == "done"}
    wanted = [job for job in select(jobs, only, seeds) if job.id not in done]
    if loaded.study.resources.executor == "slurm":
        return sbatch_lines(wanted, study, loaded.study.resources) or ["everything is done"]
    lines: list[str] = []
    for job in wanted:
        lines += ["", f"# {job.id} ({', '.join(job.variants[:3])}, seed {job.seed})", *_of_job(loaded, job, study)]
    return lines[1:] or ["everything is done"]


def _of_job(loaded: LoadedStudy, job: Job, study: StudyDir) -> list[str]:
    resources, folder = loaded.study.resources, study.job(job.id)
    environment = {**loaded.study.env, "OMP_NUM_THREADS": str(resources.threads or 1)}
    before = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    if not resources.is_spread:
        return [_line(before, command_here(_whole(folder), resources.ranks))]
    hosts = hosts_of(resources, loaded.path.parent)
    address = resources.rendezvous_address or hosts[0].name
    lines = []
    for place, host in enumerate(hosts):
        command = _on(host, place, len(hosts), address, resources.rendezvous_port, folder)
        lines += [f"# on {host.name}", _line(before, command)]
    return lines


def _on(host: Host, place: int, count: int, address: str, port: int, folder: JobDir) -> list[str]:
    return torchrun_on(
        place, count, slots=host.slots, address=address, port=port, module="tunestudy.worker", folder=_whole(folder)
    )


def _whole(folder: JobDir) -> JobDir:
    return JobDir(folder.root.resolve())


def _line(before: str, command: Sequence[str]) -> str:
    return f"cd {shlex.quote(str(Path.cwd()))} && {before} {shlex.join(command)}"

"""The sbatch files: plain shell that a person can read, change and submit by hand."""

import hashlib
import math
import os
import shlex
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.prepare import write_if_new
from tunestudy.launch.slurm.mark import mark_of
from tunestudy.launch.slurm.queue import ALLOCATION
from tunestudy.records.layout import StudyDir

ASKS_FOR_REQUEUE = 85
"""Exit code of the loop inside of a container without scontrol: the shell around it is to have this queued again."""
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Submission:
    """What one sbatch hands over: a job, several as an array, or (key `allocation`) all in one."""

    key: str
    jobs: tuple[Job, ...]

    @property
    def is_array(self) -> bool:
        return self.key != ALLOCATION and len(self.jobs) > 1

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> "Submission":
        """A submission of its own for one job, an array for several."""
        if len(jobs) == 1:
            return cls(jobs[0].id, tuple(jobs))
        names = "\n".join(job.id for job in jobs)
        return cls(f"array-{hashlib.sha256(names.encode()).hexdigest()[:12]}", tuple(jobs))

    def without(self, done: Container[str]) -> "Submission | None":
        """The same without the jobs of these ids; None when no job is left."""
        left = tuple(job for job in self.jobs if job.id not in done)
        if not left or len(left) == len(self.jobs):
            return self if left else None
        return Submission(ALLOCATION, left) if self.key == ALLOCATION else Submission.of(left)


def write_submission(one: Submission, study: StudyDir, resources: Resources, *, has_gpus: bool) -> Path:
    """Write the file that sbatch gets and the list of its jobs; returns the former, as it is to be typed here."""
    study.slurm.outputs.mkdir(parents=True, exist_ok=True)
    write_if_new(study.slurm.jobs(one.key), "".join(f"{job.id}\n" for job in one.jobs).encode())
    path = study.slurm.script(one.key)
    write_if_new(path, script(one, study, resources, has_gpus=has_gpus).encode())
    return Path(os.path.relpath(path))


def script(one: Submission, study: StudyDir, resources: Resources, *, has_gpus: bool) -> str:
    """The text of the sbatch file. Paths are relative to the folder in which it is submitted."""
    settings = resources.slurm
    folder, numbers = os.path.relpath(study.slurm.root), "%A_%a" if one.is_array else "%j"
    return (
        _environment()
        .get_template("submission.sbatch.jinja")
        .render(
            study=study.root.name,
            what=_in_words(one),
            several=len(one.jobs) > 1 and not one.is_array,
            folder=Path.cwd(),
            script=shlex.quote(f"{folder}/{study.slurm.script(one.key).name}"),
            name=f"{study.root.name}:{one.key}",
            mark=mark_of(study),
            output=shlex.quote(f"{folder}/logs/{one.key}.{numbers}.out"),
            options=list(_options(one, resources, has_gpus=has_gpus)),
            signal_s=math.ceil(settings.signal_s),
            requeue=settings.requeue,
            more=settings.sbatch,
            prologue=settings.prologue,
            wrap=settings.wrap,
            again=ASKS_FOR_REQUEUE,
            python=shlex.quote(settings.python or sys.executable),
            results=shlex.quote(os.path.relpath(study.root)),
            key=one.key,
        )
    )


def clock(seconds: float) -> str:
    """A duration as SLURM writes it: `1-12:00:00`, `06:00:00`; whole minutes, as SLURM counts them."""
    minutes = max(1, math.ceil(seconds / 60))
    days, hours = divmod(minutes // 60, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes % 60:02d}:00"


def _options(one: Submission, resources: Resources, *, has_gpus: bool) -> Iterator[str]:
    settings = resources.slurm
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        if (value := getattr(settings, name)) is not None:
            yield f"--{name}={value}"
    if settings.time is not None:
        yield f"--time={clock(settings.time)}"
    yield f"--nodes={settings.nodes}"
    yield "--ntasks-per-node=1"
    gpus = gpus_per_node(resources, allocation=one.key == ALLOCATION, has_gpus=has_gpus)
    if gpus:
        yield f"--gres=gpu:{gpus}"
    yield f"--cpus-per-task={settings.cpus_per_task or _cpus(resources, gpus, allocation=one.key == ALLOCATION)}"
    if settings.mem is not None:
        yield f"--mem={settings.mem}"
    if one.is_array:
        most = f"%{settings.max_running}" if settings.max_running else ""
        yield f"--array=0-{len(one.jobs) - 1}{most}"


def gpus_per_node(resources: Resources, *, allocation: bool, has_gpus: bool) -> int:
    """GPUs that a submission asks for on each node."""
    settings = resources.slurm
    if settings.gpus_per_node is not None:
        return settings.gpus_per_node
    if not has_gpus:
        return 0
    of_job = resources.ranks * resources.gpus_per_rank
    if not allocation:
        return math.ceil(of_job / settings.nodes)
    if resources.gpus is not None:  # each job has all of its GPUs on one node
        return max(of_job, math.ceil(resources.gpus / settings.nodes))
    slots = resources.slots if isinstance(resources.slots, int) else settings.nodes
    return of_job * math.ceil(slots / settings.nodes)


def _cpus(resources: Resources, gpus: int, *, allocation: bool) -> int:
    """Of a node: `threads` for each rank that runs there."""
    threads, nodes = resources.threads or 1, resources.slurm.nodes
    if not allocation:
        return math.ceil(resources.ranks / nodes) * threads
    sharing = resources.share_gpus if isinstance(resources.share_gpus, int) else 1
    groups = max(1, gpus // (resources.ranks * resources.gpus_per_rank))  # each job has all of its GPUs on one node
    slots = math.ceil(resources.slots / nodes) if isinstance(resources.slots, int) else groups * sharing
    return slots * resources.ranks * threads


def _in_words(one: Submission) -> str:
    if one.key == ALLOCATION:
        return f"all {len(one.jobs)} jobs, packed on what this one submission gets"
    if one.is_array:
        return f"{len(one.jobs)} jobs that wait for the same ones, as an array; {one.key}.jobs lists them"
    job = one.jobs[0]
    return f"stage {job.stage} of {', '.join(job.variants[:3])}{' …' * (len(job.variants) > 3)}, seed {job.seed}"


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

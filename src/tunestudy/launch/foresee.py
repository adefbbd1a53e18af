"""Memory of every stage, counted by a worker that loads nothing, and what can be timed on this machine at all."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch.local import visible_gpus
from tunestudy.launch.torchrun import job_environment, start
from tunestudy.records.atomic import read_json, remove_tree, write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.snapshot import gpus
from tunestudy.report.format import plural
from tunestudy.study.costs import memory_key, slicing, trains
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.show import groups_of

FORESEE = "tunestudy.train.foresee"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The memory that a rank may fill."""

    device: str
    """`cuda` or `cpu`."""
    bytes: float | None
    """None: unknown."""
    words: str

    def as_json(self) -> dict[str, object]:
        return {"device": self.device, "bytes": self.bytes, "name": self.words}


def card_of(study: Study) -> Card:
    """What the study states, else the first GPU that it may use here, else this machine's memory."""
    stated = study.estimate.gpu_memory_gb
    if stated is not None:
        return Card(device="cuda", bytes=stated * 1e9, words=f"a card of {stated:g} GB, as the study states")
    visible = visible_gpus()
    if visible:
        here = next((gpu for gpu in gpus() if visible[0] in (str(gpu["index"]), gpu["uuid"])), None)
        size = None if here is None else here["memory_bytes"]
        name = "an unknown GPU" if here is None else str(here["name"])
        return Card(device="cuda", bytes=size, words=name + (f", {size / 1e9:.1f} GB" if size else ""))
    if study.resources.gpus:
        return Card(device="cuda", bytes=None, words="GPUs that are not here (estimate.gpu_memory_gb states theirs)")
    size = psutil.virtual_memory().total
    return Card(device="cpu", bytes=float(size), words=f"this machine's memory, {size / 1e9:.1f} GB (no GPU here)")


def foresee_missing(plan: Plan, device: str) -> str | None:
    """Count the memory of every stage that nobody has counted yet, in one process; what went wrong, in words.

    The hub is never asked: a model whose configuration is not on this machine is told as missing.
    """
    return count_memory(plan, [planned.job for planned in stages_of(plan)], device)


def count_memory(plan: Plan, jobs: Sequence[Job], device: str) -> str | None:
    """The same of these jobs, which may be cut otherwise than the plan's."""
    if importlib.util.find_spec("torch") is None:
        return "memory is counted with torch, which is not installed here: pip install 'tunestudy[train]'"
    ranks, host, per_host = plan.study.resources.ranks, host_name(), slicing(plan)
    wanted = {}
    for job in jobs:
        key = memory_key(job, ranks=ranks, host=host, device=device, per_host=per_host)
        known = read_json(plan.folder.foreseen(key)) or {}
        if "tokens" not in known:  # what was missing may be there by now
            wanted[key] = job
    if not wanted:
        return None
    print(f"counting the memory of {plural(len(wanted), 'stage')} …", file=sys.stderr, flush=True)
    folders = {key: JobDir(plan.folder.foreseen(key).with_suffix("")) for key in wanted}
    try:
        for key, job in wanted.items():
            remove_tree(folders[key].root)
            write_json(folders[key].job_json, alone(plan, job).model_dump(mode="json"))
        return _count(plan.study, per_host, device, folders, plan.folder)
    finally:
        for folder in folders.values():
            remove_tree(folder.root)


def _count(study: Study, per_host: int, device: str, folders: dict[str, JobDir], results: StudyDir) -> str | None:
    from tunestudy.launch.estimate import last_line, wait_for

    log = next(iter(folders.values())).launch_log
    command = [sys.executable, "-m", FORESEE, str(study.resources.ranks), str(per_host), device]
    environment = {**job_environment(study.env, {"OMP_NUM_THREADS": "1"}, attempt=1), "HF_HUB_OFFLINE": "1"}
    code = wait_for(start([*command, *(str(folder.root) for folder in folders.values())], environment, log))
    for key, folder in folders.items():
        found = read_json(folder.root / "foresee.json")
        if found is not None:
            write_json(results.foreseen(key), found)
    return None if code == 0 else f"memory could not be counted: {last_line(log)}"


def alone(plan: Plan, job: Job) -> Job:
    """The job as if its stage were the first, with the components that an earlier stage has added."""
    assert job.training is not None
    settings = job.training.model_copy(update={"init": "base"})
    if settings.components is None:
        by_id = {planned.job.id: planned.job for planned in plan.jobs}
        for parent in _line(job, by_id):
            if parent.training is not None and parent.training.components is not None:
                settings = settings.model_copy(update={"components": parent.training.components})
                break
    return job.model_copy(update={"id": f"foresee-{job.id}", "parents": (), "settings": settings, "evaluations": {}})


def _line(job: Job, by_id: dict[str, Job]) -> Iterator[Job]:
    """Parents, nearest first."""
    while job.parents and job.parents[-1] in by_id:
        job = by_id[job.parents[-1]]
        yield job


def stages_of(plan: Plan) -> list[PlannedJob]:
    """The first job of each stage that trains."""
    firsts = [group.jobs[0] for group in groups_of(plan.jobs)]
    return [one for one in firsts if trains(one.job)]


def not_to_time(plan: Plan, base: Path) -> dict[str, str]:
    """Stage → why its steps are not timed here: they are stated, or neither its model nor its machine is this one's."""
    name = absent_model(plan, base)
    reasons = {}
    for planned in plan.jobs:
        job = planned.job
        if job.training is None:
            continue
        stated = plan.study.estimate.prior(job.stage, job.variants)
        if stated.step_s is not None or stated.training_s is not None:
            reasons[job.id] = "its `estimate:` states it; without that, steps would be timed here"
        elif plan.study.resources.executor == "slurm":
            reasons[job.id] = "jobs run on SLURM's nodes, not here: state step_s or training_s"
        elif name is not None:
            reasons[job.id] = f"{name} is not on this machine, so no step can be timed"
    return reasons


def absent_model(plan: Plan, base: Path) -> str | None:
    """The study's model if its weights are neither in a folder nor in the hub's cache on this machine."""
    name = plan.study.model.model_name_or_path
    here = name is None or (base / Path(name).expanduser()).is_dir() or in_hub_cache(name)
    return None if here else name


def in_hub_cache(name: str) -> bool:
    """Whether weights of a hub id are in the cache of huggingface_hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/*.safetensors"))

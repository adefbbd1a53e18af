"""Memory of every stage, counted by a worker that loads nothing."""

import importlib.util
import sys
from collections.abc import Sequence

from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch.estimates.alone import alone, stages_of
from tunestudy.launch.torchrun import job_environment, last_line, start, wait_for
from tunestudy.records.atomic import read_object, remove_tree, write_json
from tunestudy.records.host import host_name
from tunestudy.records.launchers import writer_name
from tunestudy.records.layout import FORESEEN, JobDir, StudyDir
from tunestudy.report.format import plural
from tunestudy.study.estimates.costs import memory_key, slicing
from tunestudy.study.plan import Plan

FORESEE = "tunestudy.train.foresee"


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
        key = memory_key(plan, job, ranks=ranks, host=host, device=device, per_host=per_host)
        known = read_object(plan.folder.foreseen(key))
        if "tokens" not in known:  # what was missing may be there by now
            wanted[key] = job
    if not wanted:
        return None
    print(f"counting the memory of {plural(len(wanted), 'stage')} …", file=sys.stderr, flush=True)
    own = {key: f"{plan.folder.foreseen(key).stem}-{writer_name()}" for key in wanted}  # others may count the same now
    folders = {key: JobDir(plan.folder.cache / name) for key, name in own.items()}
    try:
        for key, job in wanted.items():
            write_json(folders[key].job_json, alone(plan, job).model_dump(mode="json"))
        return _count(plan.study, per_host, device, folders, plan.folder)
    finally:
        for folder in folders.values():
            remove_tree(folder.root)


def _count(study: Study, per_host: int, device: str, folders: dict[str, JobDir], results: StudyDir) -> str | None:
    log = next(iter(folders.values())).launch_log
    command = [sys.executable, "-m", FORESEE, str(study.resources.ranks), str(per_host), device]
    environment = {**job_environment(study.env, {"OMP_NUM_THREADS": "1"}, attempt=1), "HF_HUB_OFFLINE": "1"}
    code = wait_for(start([*command, *(str(folder.root) for folder in folders.values())], environment, log))
    for key, folder in folders.items():
        if found := read_object(folder.root / FORESEEN):
            write_json(results.foreseen(key), found)
    return None if code == 0 else f"memory could not be counted: {last_line(log)}"

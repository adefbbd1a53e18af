"""Steps of every stage, timed by a worker that takes a few, as far as they can be timed on this machine."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.config.paths import located
from tunestudy.launch.estimates.alone import alone
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import Command, job_environment, last_line, start, wait_for
from tunestudy.records.atomic import read_json, remove_tree, write_json
from tunestudy.records.host import host_name
from tunestudy.records.hub_cache import hub_cache
from tunestudy.records.launchers import writer_name
from tunestudy.records.layout import PROBED, JobDir
from tunestudy.study.estimates.timing import expected_times, speed_key
from tunestudy.study.plan import Plan

PROBE = "tunestudy.train.probe"


def probe_missing(plan: Plan, base: Path) -> list[str]:
    """Time some steps of every stage that is still to do and has no evidence; returns what went wrong, in words.

    `base` is where the study file lies. Ctrl-C ends the probe that runs and leaves those that are done.
    StudyError when this machine has no slot for the study's jobs.
    """
    resources = plan.study.resources
    missing = _without_evidence(plan, base)
    if not missing:
        return []
    slot = find_slots(resources)[0]
    command = command_for(resources, base, PROBE)
    failed: list[str] = []
    for key, job in missing.items():
        print(f"timing steps of {job.stage} ({', '.join(job.variants[:3])}) …", file=sys.stderr, flush=True)
        failed += time_job(plan, job, key, slot, command)
    return failed


def _without_evidence(plan: Plan, base: Path) -> dict[str, Job]:
    """A probe's name → the first job of the stage that it is for."""
    ranks, host = plan.study.resources.ranks, host_name()
    times = expected_times(plan, ranks=ranks, host=host)
    skipped = not_to_time(plan, base)
    asked = {speed_key(plan, one.job, ranks=ranks, host=host) for one in plan.jobs if one.job.id in skipped}
    missing: dict[str, Job] = {}
    for planned in plan.jobs:
        job = planned.job
        idle = job.settings is None or job.settings.trains_nothing
        if idle or planned.status in ("done", "evaluate") or times[job.id].train_s is not None:
            continue
        key = speed_key(plan, job, ranks=ranks, host=host)
        if key not in asked:
            missing.setdefault(key, job)
    return missing


def time_job(plan: Plan, job: Job, key: str, slot: Slot, command: Command) -> list[str]:
    """Run one probe in a folder of its own, which is removed; its result stays."""
    result = plan.folder.probe(key)
    folder = JobDir(result.with_name(f"{result.stem}-{writer_name()}"))  # another `run` may time the same just now
    try:
        write_json(folder.job_json, alone(plan, job).model_dump(mode="json"))
        began = time.monotonic()
        process = start(
            command(folder, slot.ranks),
            job_environment(plan.study.env, slot.environment, attempt=1),
            folder.launch_log,
        )
        code = wait_for(process)
        measured = folder.root / PROBED
        if code == 0 and measured.exists():
            told = read_json(measured)
            write_json(result, {**told, "start_s": round(max(0.0, time.monotonic() - began - told["inside_s"]), 3)})
            return []
        return [f"{job.stage} ({job.variants[0]}) could not be timed: {last_line(folder.launch_log)}"]
    finally:
        remove_tree(folder.root)


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
    here = name is None or located(base, name).is_dir() or in_hub_cache(name, plan.study.env)
    return None if here else name


def in_hub_cache(name: str, env: Mapping[str, str]) -> bool:
    """Whether weights of a hub id are in the hub's cache that jobs read. env: of the study, which may move it."""
    folder = hub_cache({**os.environ, **env}) / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(folder.glob("*/*.safetensors"))

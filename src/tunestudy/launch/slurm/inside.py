"""What every sbatch file runs: the one loop, inside of the allocation.

    python -m tunestudy.launch.slurm.inside RESULTS/STUDY KEY

It asks the files again whether the jobs of the submission KEY can run, carries them out, and writes down why it left.
SIGUSR1 means that the time limit is near: jobs save and leave, and SLURM queues the submission again. SIGTERM means the
same without coming back by itself: somebody stopped it, or SLURM queues it again on its own.

Exit codes are for SLURM's dependencies: 0 if and only if the weights of all jobs are published.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ruamel.yaml import YAML

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.outcome import is_complete, is_trained
from tunestudy.launch.queue import remembered_works
from tunestudy.launch.slurm.commands import SlurmError, ask
from tunestudy.launch.slurm.history import Life, lives_of
from tunestudy.launch.slurm.place import allocated_nodes, place_for
from tunestudy.launch.slurm.queue import ALLOCATION, listed_jobs
from tunestudy.launch.slurm.script import ASKS_FOR_REQUEUE
from tunestudy.records.atomic import read_object
from tunestudy.records.events import Journal
from tunestudy.records.launchers import writer_name
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import STALE_S, Lease
from tunestudy.records.listing import size_of

POLL_S = 0.5
NO_REQUEUE = (
    "there is no scontrol where this submission runs, so it cannot have itself queued again at its time limit: "
    "leave `tunestudy run` watching, which sends the next one, or put the container into slurm.wrap"
)
_HURRY_S = 10.0
"""Before the time limit everything is through."""


class Limit:
    """Whether the time limit's signal came; the loop hears of it as of any wish to stop."""

    def __init__(self) -> None:
        self.is_near = False
        signal.signal(signal.SIGUSR1, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_near = True
        os.kill(os.getpid(), signal.SIGTERM)


def main(root: str, key: str, module: str = "tunestudy.worker") -> int:
    """Carry out what a submission holds; returns the exit code. `module` runs a job (tests replace it)."""
    try:
        return carried_out(StudyDir(Path(root)), key, module)
    except StudyError as error:
        print(error, file=sys.stderr, flush=True)
        return int(error.exit_code)
    except OSError as error:
        print(f"{root}: {error.strerror or error}; make room there, `tunestudy run` continues", file=sys.stderr)
        return int(Exit.JOBS_FAILED)


def carried_out(study: StudyDir, key: str, module: str) -> int:
    """The exit code. OSError where the results cannot be written any more, StudyError where nothing can be run."""
    limit = Limit()
    settings = understood(study)
    jobs = wanted_jobs(study, key)
    alone = packed(study, jobs) if key == ALLOCATION else [ready(study, job) for job in jobs]
    base, works = base_of(study, jobs), remembered_works(study, alone)
    smallest = min((work.memory_mb for work in works.values() if work.memory_mb is not None), default=None)
    place = place_for(settings.resources, base, single=key != ALLOCATION, smallest_mb=smallest, module=module)
    with Journal(study.events, f"{writer_name()}-slurm") as journal:
        before = lives_of(study, slurm_id())
        journal.write("slurm_started", **facts(key, jobs), **whence(before))
        if settings.resources.slurm.requeue and not settings.resources.slurm.wrap and shutil.which("scontrol") is None:
            journal.write("alert", job="", kind="requeue", message=NO_REQUEUE, step=None, cause=key)
        came_to = [made_of(study, job) for job in jobs]
        code = carry_out(settings, alone, study, place=place, quiet=False, works=works, uploads=False, hurry=False)
        again = code == Exit.INTERRUPTED and limit.is_near
        went_on = any(
            now.is_beyond(then) for now, then in zip((made_of(study, job) for job in jobs), came_to, strict=True)
        )
        stuck = again and not went_on and bool(before) and before[-1].reason == "time limit"
        reason = "stuck" if stuck else "time limit" if again else code.name.lower()
        steps = {job.id: step_of(study, job) for job in jobs}
        journal.write(
            "slurm_left", slurm_id=slurm_id(), restart=restarts(), reason=reason, steps=steps, went_on=went_on
        )
    if stuck:
        print("no step was made since the last time limit: raise resources.slurm.time", file=sys.stderr, flush=True)
        return exit_code(study, jobs, Exit.JOBS_FAILED)
    if again and settings.resources.slurm.requeue and not requeue() and settings.resources.slurm.wrap:
        return ASKS_FOR_REQUEUE
    return exit_code(study, jobs, code)


def understood(study: StudyDir) -> Study:
    """The study as the latest `run` understood it, with stop_grace_s that ends before the time limit does."""
    try:
        told = YAML(typ="safe").load(study.resolved_yaml.read_bytes())
    except FileNotFoundError:
        cause = f"is not seen from {os.uname().nodename}: compute nodes must share the folder of the results"
        raise StudyError(str(study.root), cause, exit_code=Exit.PREFLIGHT_REFUSED) from None
    settings = Study.model_validate(told)
    resources = settings.resources
    grace = min(resources.stop_grace_s, max(_HURRY_S, resources.slurm.signal_s - _HURRY_S))
    return settings.model_copy(update={"resources": resources.model_copy(update={"stop_grace_s": grace})})


def wanted_jobs(study: StudyDir, key: str) -> list[Job]:
    """The jobs of a submission as their folders describe them; of an array the one of this element."""
    names = listed_jobs(study.slurm.jobs(key))
    index = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if index.isdigit():
        names = names[int(index) : int(index) + 1]
    if not names:
        raise StudyError(str(study.slurm.jobs(key)), "names no job for this submission; `tunestudy run` writes it anew")
    return [job_in(study, name) for name in names]


def job_in(study: StudyDir, name: str) -> Job:
    """A job as its folder tells it."""
    told = read_object(study.job(name).job_json)
    if not told:
        raise StudyError(name, "its folder is gone; the study was changed since: `tunestudy run` submits what it wants")
    return Job.model_validate(told)


def base_of(study: StudyDir, jobs: Sequence[Job]) -> Path:
    """The study file's folder."""
    return study.job(jobs[0].id).root / jobs[0].base_dir


def packed(study: StudyDir, jobs: Sequence[Job]) -> list[Job]:
    """The jobs of an allocation without what they need and others have trained. StudyError if those have not."""
    here = {job.id for job in jobs}
    found = []
    for job in jobs:
        _see_trained(study, job, [name for name in job.needs if name not in here])
        parents = tuple(name for name in job.parents if name in here)
        inputs = {role: name for role, name in job.inputs.items() if name in here}
        found.append(job.model_copy(update={"parents": parents, "inputs": inputs}))
    return found


def ready(study: StudyDir, job: Job) -> Job:
    """The job without its parents, once they are seen to be trained and nobody else is at it. StudyError if not."""
    _see_trained(study, job, job.needs)
    folder, give_up = study.job(job.id), time.monotonic() + STALE_S + 20
    while (holder := Lease.holder(folder.claim) or Lease.holder(folder.lease)) and not is_complete(job, folder):
        if time.monotonic() > give_up:
            cause = f"is carried out elsewhere, by {holder}; this submission leaves it alone"
            raise StudyError(job.id, cause, exit_code=Exit.INTERRUPTED)
        time.sleep(POLL_S)  # the node of an earlier life may be lost: its leases run out
    return job.model_copy(update={"parents": (), "inputs": {}})


def _see_trained(study: StudyDir, job: Job, needs: Sequence[str]) -> None:
    """StudyError unless all of `needs` are trained; a job that is so itself, and is to be scored, needs none."""
    for name in () if is_trained(job, study.job(job.id)) else needs:
        if not is_trained(job_in(study, name), study.job(name)):
            cause = f"starts from {name}, which is not trained; `tunestudy run` submits both in order"
            raise StudyError(job.id, cause, exit_code=Exit.PREFLIGHT_REFUSED)


def slurm_id() -> str:
    """As squeue writes it: `12`, of an array's element `12_3`."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often SLURM has queued this submission again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def facts(key: str, jobs: Sequence[Job]) -> dict[str, Any]:
    """What the journal holds of a submission's start."""
    shown = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    nodes = allocated_nodes()
    return {
        "slurm_id": slurm_id(),
        "key": key,
        "jobs": [job.id for job in jobs],
        "nodes": nodes,
        "gpus": len(shown) * len(nodes),
        "restart": restarts(),
    }


def whence(before: Sequence[Life]) -> dict[str, str]:
    """Why it starts again: what it said as it left, or, when it said nothing, that its node was lost."""
    if not before or not restarts():
        return {}
    reason = before[-1].reason
    if reason == "time limit":
        return {"kind": "preempted", "why": "its time limit came"}
    if reason is None:
        return {"kind": "node_lost", "why": f"{before[-1].nodes[0]} was lost, or killed it without a word"}
    return {"kind": "preempted", "why": "SLURM wanted its node for others"}


def step_of(study: StudyDir, job: Job) -> int | None:
    """The last step that the job told of."""
    step = read_object(study.job(job.id).progress_json).get("step")
    return step if isinstance(step, int) else None


@dataclass(frozen=True)
class Made:
    """How far a job has come."""

    trained: bool
    step: int
    answered_bytes: int
    """Of what its benchmarks have written so far: that grows where no step is made any more."""

    def is_beyond(self, then: "Made") -> bool:
        """In any of the three: a job that starts again tells of no step at first."""
        return self.trained > then.trained or self.step > then.step or self.answered_bytes > then.answered_bytes


def made_of(study: StudyDir, job: Job) -> Made:
    """From the job's files."""
    folder = study.job(job.id)
    answered = sum(map(size_of, folder.eval.rglob("*.jsonl")))
    return Made(is_trained(job, folder), step_of(study, job) or 0, answered)


def requeue() -> bool:
    """Have SLURM queue this submission again; it ends this one for it. False, and a word, where that cannot be."""
    number = os.environ["SLURM_JOB_ID"]
    try:
        ask("scontrol", "requeue", number)
    except (SlurmError, StudyError) as error:  # no scontrol inside of a container, or the site forbids it
        said = error.message if isinstance(error, StudyError) else error
        print(f"SLURM does not queue {number} again ({said}); `tunestudy run` continues", file=sys.stderr, flush=True)
        return False
    print("the time limit is near: saved, and queued again", flush=True)
    time.sleep(30)  # until SLURM ends it: leaving first would count as the end of the submission
    return True


def exit_code(study: StudyDir, jobs: Sequence[Job], code: Exit) -> int:
    """0 when all weights are there, whatever became of benchmarks: those who wait need nothing else."""
    if all(is_trained(job, study.job(job.id)) for job in jobs):
        return 0
    return int(code) or int(Exit.JOBS_FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))

"""The only door between the planes: `python -m tunestudy.worker JOB_DIR`, started by torchrun on every rank.

Trains the job's stage unless its result is there, runs the benchmarks whose scores are missing, and says in files
how it went: progress.json while it lives, result.json and eval/ when it is done, failure.json when it failed.
"""

import faulthandler
import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.failures import FailureKind, sign_in
from tunestudy.config.job import Job
from tunestudy.records import clock
from tunestudy.records.atomic import is_disk_full, read_json, read_object, sweep, write_json
from tunestudy.records.host import host_name
from tunestudy.records.hub_cache import stay_offline
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.logs import scrub, write_output_to
from tunestudy.records.progress import Progress, known_here
from tunestudy.records.redact import redact
from tunestudy.records.snapshot import snapshot
from tunestudy.records.space import NoSpaceError, told_if_full
from tunestudy.records.stop import StopRequest

if TYPE_CHECKING:
    from tunestudy.train.world import World

UNEXPECTED = 1
"""Exit code of an error that is not the user's."""


def main(job_dir: str) -> int:
    """Run one job on this rank; returns an exit code of `config.errors.Exit`, or 1 for an unexpected error."""
    folder = JobDir(Path(job_dir).resolve())
    rank = int(os.environ.get("RANK", "0"))
    log = folder.rank_log(rank)
    write_output_to(log)
    faulthandler.register(signal.SIGUSR2, file=2)  # a launcher that gives a hanging job up asks for stacks first
    stop = StopRequest.on_signals(signal.SIGTERM, signal.SIGINT)
    try:
        return run_job(folder, stop)
    except LeaseHeldError as held:
        print(f"not started: {held}", file=sys.stderr)  # its holder alone writes about this job
        return UNEXPECTED
    except BaseException as error:  # noqa: BLE001 - the door: whatever it is goes into failure.json
        return report_failure(folder, rank, error)
    finally:
        scrub(log)


def run_job(folder: JobDir, stop: StopRequest) -> int:
    """Train and evaluate under the job's lease, which rank 0 holds for all ranks."""
    told = read_json(folder.job_json)
    if told is None:
        cause = "was deleted while the job waited for its turn; `tunestudy run` makes it again"
        raise StudyError(str(folder.root), cause, exit_code=Exit.PREFLIGHT_REFUSED)
    job = Job.model_validate(told)
    if job.offline:
        stay_offline()  # before the first import of what asks the hub
    import_what_it_needs(job)
    from tunestudy.train.world import open_world

    with open_world(folder.logs) as world:
        if world.rank > 0:
            return train_and_evaluate(job, folder, world, stop)
        with Lease.acquire(folder.lease, on_lost=end_at_once):
            sweep(folder.root)
            write_json(folder.env_json, snapshot(folder.root / job.base_dir))
            return train_and_evaluate(job, folder, world, stop)


def import_what_it_needs(job: Job) -> None:
    """The large packages, before anything else.

    What an import makes stays, yet Python looks through it for garbage again and again: a quarter of a short job's
    processor time. So it does not look while they come in, nor at them later.
    """
    if job.merging is not None and not job.evaluations:
        return
    leave_out_of_logs()
    with no_collections():
        import tunestudy.train.stage  # noqa: F401

        if job.training is not None and job.training.adapter is not None:
            import peft  # noqa: F401


def leave_out_of_logs() -> None:
    """What packages say of each other whatever a job does, and what nobody can do anything about.

    PEFT imports bitsandbytes wherever it is installed, which then misses kernels for processors that we do not let it
    use (`models.quantize.keep_layout`); and it asks transformers by a name that is to go.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


@contextmanager
def no_collections() -> Iterator[None]:
    """No garbage is collected; what stands at the end is no garbage for good."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_at_once() -> None:
    """This process was suspended for so long that another took the job over: it must not write another byte."""
    print("ended: another process has taken this job over", file=sys.stderr, flush=True)
    os._exit(UNEXPECTED)


def train_and_evaluate(job: Job, folder: JobDir, world: "World", stop: StopRequest) -> int:
    """The two halves of a job; each is skipped when its files are already there and belong to this job."""
    world.barrier()
    if not is_trained(job, folder) and not carry_out_stage(job, folder, world, stop):
        return Exit.INTERRUPTED
    if job.evaluations and not evaluate(job, folder, world, stop):
        if world.rank == 0:
            tell_phase(folder, "interrupted")
        return Exit.INTERRUPTED
    if world.rank == 0:
        folder.failure_json.unlink(missing_ok=True)
        tell_phase(folder, "done")
    return Exit.DONE


def is_trained(job: Job, folder: JobDir) -> bool:
    """Whether the result of exactly this job is published."""
    if read_object(folder.result_json).get("fingerprint") != job.fingerprint:
        return False
    return job.settings is None or folder.model.is_dir()


def evaluate(job: Job, folder: JobDir, world: "World", stop: StopRequest) -> bool:
    """Run the benchmarks whose scores are missing; False when asked to stop on the way."""
    from tunestudy.bench.checkpoints import score_checkpoints
    from tunestudy.bench.run import run_benchmarks

    progress = Progress(folder, writes=True, rank=world.rank, goes_on="benchmark")
    try:
        finished = run_benchmarks(job, folder, world, stop, progress)
        finished = finished and score_checkpoints(job, folder, world, stop, progress)
        progress.tell(doing=None)
        return finished
    finally:
        progress.close()


def carry_out_stage(job: Job, folder: JobDir, world: "World", stop: StopRequest) -> bool:
    """Train, or merge, which rank 0 does alone; False when asked to stop on the way."""
    if job.merging is None:
        from tunestudy.train.stage import run_stage

        return run_stage(job, folder, world, stop)
    from tunestudy.merge.run import run_merge

    finished = run_merge(job, folder, stop) if world.rank == 0 else True
    world.after_rank_0()
    return world.from_rank_0(finished) > 0


def report_failure(folder: JobDir, rank: int, error: BaseException) -> int:
    """Write failure.json unless another rank has, and the traceback to the log unless the mistake is the user's.

    A rank that only lost others knows no cause: whoever does overwrites what it wrote.
    """
    if is_disk_full(error) and not isinstance(error, NoSpaceError):
        error = full_disk(error, folder.root)
    kind = kind_of(error)
    if kind != "user" and not isinstance(error, NoSpaceError):
        traceback.print_exc()
    print(f"rank {rank} failed: {error}", file=sys.stderr, flush=True)
    progress = {**read_object(folder.progress_json), **known_here()}
    attempt = int(os.environ.get("TUNESTUDY_ATTEMPT", "1"))
    told = read_object(folder.failure_json)
    first, lost_others = told.get("attempt") != attempt, type(error).__name__ == "RanksLostError"
    if first or (told.get("lost_others") and not lost_others):
        facts = {
            "t": clock.now(folder.root),
            "attempt": attempt,
            "kind": kind,
            "message": redact(message_of(error)),
            "where": redact(str(error.place)) if isinstance(error, StudyError) else innermost_line(error),
            "rank": rank,
            "step": progress.get("step"),
            "phase": progress.get("phase"),
            "lost_others": lost_others,
        }
        with told_if_full(folder.failure_json):
            write_json(folder.failure_json, facts)
    with told_if_full(folder.progress_json):
        tell_phase(folder, "failed")
    return error.exit_code if isinstance(error, StudyError) else UNEXPECTED


def full_disk(error: BaseException, folder: Path) -> NoSpaceError:
    """What anything raised about a full disk, in our words: with the file where that is known."""
    name = getattr(error, "filename", None)
    if name is None:
        return NoSpaceError("to go on", folder, None, error)
    return NoSpaceError(f"for {Path(name).name}", Path(name).parent, None, error)


def kind_of(error: BaseException) -> FailureKind:
    """What decides about another start and about the advice: by the error's class, its number, its words, its cause."""
    if isinstance(error, StudyError):
        return "user"
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return "oom"
    if is_disk_full(error):
        return "disk"
    if isinstance(error, FloatingPointError):
        return "nan"
    sign = sign_in(str(error)) if isinstance(error, RuntimeError | OSError) else None
    if sign is not None:
        return sign.kind
    return "error" if error.__cause__ is None else kind_of(error.__cause__)


def message_of(error: BaseException) -> str:
    """One line for the table of failures."""
    text = error.message if isinstance(error, StudyError) else str(error)
    first = text.strip().splitlines()[0] if text.strip() else ""
    if isinstance(error, NoSpaceError):
        return text
    return text if isinstance(error, StudyError) else f"{type(error).__name__}: {first}"


def innermost_line(error: BaseException) -> str:
    """File name and line of the frame that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def tell_phase(folder: JobDir, phase: str) -> None:
    """Replace the phase in progress.json and keep the rest of the last sign of life."""
    progress = read_object(folder.progress_json)
    told = {"t": clock.now(folder.root), "phase": phase, "pid": os.getpid(), "host": host_name()}
    write_json(folder.progress_json, {**progress, **told})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

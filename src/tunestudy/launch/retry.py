"""Whether a failed job is started again, with what changed, and after which pause."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunestudy.config.benchmark import Benchmark
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch.outcome import Outcome
from tunestudy.records.adjusted import Adjusted, read_adjusted
from tunestudy.records.layout import JobDir

OF_THE_CLUSTER = ("preempted", "node_lost")
"""Not the job's fault: they may come twice at one step, and say nothing about it."""
WAITED_FOR = ("node_lost", "disk")
"""What may be better in a while."""
LONGEST_WAIT_S = 600.0
LARGEST_DIVISOR = 64
"""Of a benchmark's batches: less than 256 tokens at once is not what they fail for."""

CURES = {
    "oom": "use activation_checkpointing, a shorter max_length, load_in_4bit of the model, or more ranks with "
    "engine: fsdp2",
    "nan": "lower learning_rate, warm up for longer, or use bf16 in place of fp16; run again goes on from the last "
    "full checkpoint",
    "disk": "make room (`tunestudy clean` lists what is no longer needed), then run again",
    "hang": "the stacks of all ranks are in logs/rank-*.log; resources.timeout_s is how long ranks wait",
    "node_lost": "run again when the machine is back",
    "killed": "see who ended it: a person, a scheduler's limit, or the system short of memory; then run again",
    "preempted": "run again to go on",
    "error": "read the log; run again goes on from the last full checkpoint",
    "user": "mend it and run again",
}
"""What to do next about a job that was given up, by the kind of its last failure."""


def cure_of(kind: str) -> str:
    """A kind that a file names and nobody knows is like any error."""
    return CURES.get(kind, CURES["error"])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What becomes of a job whose attempt failed."""

    again: bool
    words: str = ""
    """What is different about the next attempt, or why there is none."""
    wait_s: float = 0.0
    adjusted: Adjusted | None = None
    """To be written before the next attempt."""


def verdict_on(failures: Sequence[Outcome], job: Job, folder: JobDir, resources: Resources, *, ranks: int) -> Verdict:
    """Whether another attempt makes sense after `failures`, the last of which is judged; all are of this run."""
    last, *before = reversed(failures)
    if last.kind == "user":
        return Verdict(again=False)
    smaller = smaller_batches(last, job, folder, ranks=ranks) if last.kind == "oom" else None
    if isinstance(smaller, str):
        return Verdict(again=False, words=smaller)
    same = bool(before) and (before[0].step, before[0].kind) == (last.step, last.kind)
    if same and smaller is None and last.kind not in OF_THE_CLUSTER:
        return Verdict(again=False, words="it failed at the same step before, so it was not started again")
    of_kind = sum(failure.kind == last.kind for failure in failures)
    if why := spent(last, of_kind, len(failures), resources):
        return Verdict(again=False, words=why)
    pause = resources.retries.wait_s * 2 ** (of_kind - 1) if last.kind in WAITED_FOR else 0.0
    words = smaller.why if smaller else ""
    return Verdict(again=True, words=words, wait_s=min(pause, LONGEST_WAIT_S), adjusted=smaller)


def spent(last: Outcome, of_kind: int, in_all: int, resources: Resources) -> str:
    """Why a job that failed so often is not started again; empty when it may be."""
    most = getattr(resources.retries, last.kind)
    if of_kind > most:
        return f"not started again: resources.retries.{last.kind} is {most}"
    if resources.max_retries is not None and in_all > resources.max_retries:
        return f"not started again: resources.max_retries is {resources.max_retries}"
    return ""


def smaller_batches(last: Outcome, job: Job, folder: JobDir, *, ranks: int) -> Adjusted | str | None:
    """Half of what was held in memory where it ran out, in training, evaluation or a benchmark.

    None where no batch is to blame, as while loading; words when the batch cannot become smaller.
    """
    now = read_adjusted(folder)
    if last.phase == "benchmark":
        return _smaller_benchmarks(now, [wanted.benchmark for wanted in job.evaluations.values()], last)
    if job.training is None or last.phase not in ("train", "evaluate"):
        return None
    settings = job.training
    rows = settings.per_device_train_batch_size
    if rows is None:
        return None
    rows = min(rows, now.per_device_train_batch_size or rows)
    if last.phase == "train":
        share = (settings.effective_batch_size or 0) // ranks or rows * (settings.gradient_accumulation_steps or 1)
        if rows == 1:
            return "its micro-batch is one sample already"
        half = max(size for size in range(1, rows // 2 + 1) if share % size == 0)
        where = f" after step {last.step}" if last.step else ""
        why = f"out of memory{where}, so per_device_train_batch_size is {half} in place of {rows}"
        if settings.per_device_eval_batch_size is None:  # evaluation follows the micro-batch
            now = replace(now, per_device_eval_batch_size=None)
        return replace(now, per_device_train_batch_size=half, attempt=last.attempt, why=f"{why}; same effective batch")
    asked = settings.per_device_eval_batch_size or rows
    asked = min(asked, now.per_device_eval_batch_size or asked)
    if asked == 1:
        return "it evaluates one sample at a time already"
    half = asked // 2
    why = f"out of memory in an evaluation, so per_device_eval_batch_size is {half} in place of {asked}"
    return replace(now, per_device_eval_batch_size=half, attempt=last.attempt, why=why)


def _smaller_benchmarks(now: Adjusted, benchmarks: Sequence[Benchmark], last: Outcome) -> Adjusted | str:
    divisor = now.benchmark_divisor * 2
    if divisor > LARGEST_DIVISOR or all(benchmark.batch_size == 1 for benchmark in benchmarks):
        return "its benchmarks ask hardly anything at a time already"
    why = f"out of memory in a benchmark, so batches of benchmarks are 1/{divisor} of their size"
    return replace(now, benchmark_divisor=divisor, attempt=last.attempt, why=why)

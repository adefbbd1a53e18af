"""How an attempt at a job ended: read from the job's files first, from exit codes second.

torchrun's own exit code says little (1 for everything), so what a rank wrote counts more, and the signals that
torchrun's summary names count more than what the surviving ranks complained about.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tunestudy.config.failures import FailureKind, Sign, sign_in
from tunestudy.config.job import Job
from tunestudy.records import clock
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact
from tunestudy.records.space import is_full, told_if_full
from tunestudy.study.state import missing_evaluations

Kind = Literal["done", "interrupted"] | FailureKind

_EXIT_CODE = re.compile(r"exitcode\s*:\s*(-?\d+)(?:\s*\(pid: (\d+)\))?")
_FORCED = re.compile(r"Unable to shutdown process (\d+) via")
"""torchrun itself kills a rank that does not leave when another has failed: that signal is no cause."""
_KNOWN_CAUSES = ("user", "oom", "nan", "disk")
"""What a rank knows of itself, whatever became of the others because of it."""
_OF_SIGNALS: tuple[FailureKind, ...] = ("oom", "preempted", "node_lost", "hang")
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one attempt. `kind` other than `done` and `interrupted` is a failure."""

    kind: Kind
    message: str = ""
    signal: int | None = None
    exit_code: int | None = None
    step: int | None = None
    """The last step that was told, None before the first."""
    rank: int | None = None
    phase: str = ""
    """What the job was at, as its last sign of life tells."""
    attempt: int | None = None
    by_expectation: bool = False
    """Whether a band of `expect:` made it stop: then the study is not wrong, and the job is."""

    @property
    def failed(self) -> bool:
        return self.kind not in ("done", "interrupted")


def failed_words(kind: str, message: str) -> str:
    """`failed (oom): …`; the kind is left out where it says no more than the message."""
    return f"failed: {message}" if kind in ("user", "error", "killed") else f"failed ({kind}): {message}"


def is_trained(job: Job, folder: JobDir) -> bool:
    """Whether the job's own result is published."""
    return bool(read_object(folder.result_json).get("fingerprint") == job.fingerprint)


def is_complete(job: Job, folder: JobDir) -> bool:
    """Whether it is trained and every benchmark has a score of today's definition."""
    return is_trained(job, folder) and not any(missing_evaluations(folder, job))


def read_outcome(
    job: Job, folder: JobDir, *, attempt: int, exit_code: int, log_start: Mapping[str, int], out_of_memory: bool
) -> Outcome:
    """What became of `attempt`, whose processes are gone.

    `log_start`: sizes of logs when it began (see `log_sizes`); `out_of_memory`: whether the kernel killed anything
    since then. What a rank knows of itself counts most; then the cluster's word; then signals; then what ranks say of
    each other.
    """
    if is_complete(job, folder):
        return Outcome(kind="done")
    progress, failure = read_object(folder.progress_json), read_object(folder.failure_json)
    if failure.get("attempt") != attempt:
        failure = {}
    logs = Logs(folder, log_start)
    killed_by = _fatal_signal(exit_code, logs.launch)
    step = failure.get("step") if failure.get("step") is not None else progress.get("step")
    phase = failure.get("phase") or str(progress.get("phase") or "")
    ended = Outcome(kind="error", exit_code=exit_code, step=step, phase=phase, attempt=attempt)
    word = word_of_cluster(logs)
    said = f"rank {failure['rank']} then said: {failure['message']}" if failure else ""
    if failure and failure["kind"] in _KNOWN_CAUSES:
        return replace(ended, kind=failure["kind"], message=_with_place(failure), rank=failure["rank"])
    if word is not None and word.kind in _OF_SIGNALS:
        return replace(ended, kind=word.kind, message="; ".join(filter(None, (word.line, said))), signal=killed_by)
    if failure and killed_by is None:
        return replace(ended, kind=failure["kind"], message=failure["message"], rank=failure["rank"])
    if progress.get("phase") == "interrupted" and progress.get("attempt") == attempt:
        return replace(ended, kind="interrupted")
    if killed_by is not None:
        kind: Kind = "oom" if killed_by == signal.SIGKILL and out_of_memory else "killed"
        message = "; ".join(filter(None, (describe_signal(killed_by, out_of_memory), said)))
        return replace(ended, kind=kind, message=message, signal=killed_by)
    return unexplained(ended, logs)


def outcome_told(failure: Mapping[str, Any]) -> Outcome:
    """The failure that a job's failure.json tells of, for who has nothing else."""
    known: Sequence[FailureKind] = get_args(FailureKind)
    return Outcome(
        kind=next((kind for kind in known if kind == failure.get("kind")), "error"),
        message=_with_place(failure),
        step=failure.get("step"),
        rank=failure.get("rank"),
        attempt=failure.get("attempt"),
        by_expectation=bool(failure.get("by_expectation")),
    )


def _with_place(failure: Mapping[str, Any]) -> str:
    """Its message; of a user's mistake, after the place where it is."""
    place = f"{failure['where']}: " if failure.get("kind") == "user" and failure.get("where") else ""
    return place + str(failure.get("message", ""))


@dataclass(frozen=True)
class Logs:
    """What one attempt wrote to its logs, their ends."""

    folder: JobDir
    start: Mapping[str, int]

    @property
    def launch(self) -> str:
        """torchrun's words, or those of what stands in its place."""
        return self._tail(self.folder.launch_log)

    def of_rank(self, rank: int) -> str:
        return self._tail(self.folder.rank_log(rank))

    @property
    def ranks(self) -> str:
        """Of all ranks."""
        return "\n".join(self._tail(log) for log in sorted(self.folder.logs.glob("rank-*.log")))

    @property
    def last_line(self) -> str:
        """Of rank 0, or of torchrun where that wrote nothing; empty without any."""
        lines = (self.of_rank(0) or self.launch).splitlines()
        return redact(next((line.strip() for line in reversed(lines) if line.strip()), ""))

    def _tail(self, log: Path) -> str:
        return _tail(log, self.start.get(log.name, 0))


def word_of_cluster(logs: Logs) -> Sign | None:
    """What a scheduler, the launcher on several hosts or a watchdog says about an attempt."""
    sign = sign_in(logs.launch, "cluster") or sign_in(logs.ranks, "cluster")
    return None if sign is None else Sign(kind=sign.kind, line=redact(sign.line))


def unexplained(ended: Outcome, logs: Logs) -> Outcome:
    """An attempt that left no word of its own: by what libraries printed, or else its last line."""
    sign = sign_in(f"{logs.launch}\n{logs.ranks}", "library")
    last = logs.last_line or "it printed nothing"
    message = redact(f"ended with exit code {ended.exit_code}: {sign.line if sign else last}")
    if sign is None and is_full(logs.folder.root):
        return replace(ended, kind="disk", message=f"{message}; no space is left, perhaps not for more words either")
    return replace(ended, kind=sign.kind if sign else "error", message=message)


def log_sizes(folder: JobDir) -> dict[str, int]:
    """Sizes of the logs now by file name, to tell one attempt's output from that of those before."""
    return {log.name: log.stat().st_size for log in folder.logs.glob("*.log")}


def describe_signal(number: int, out_of_memory: bool) -> str:
    """A signal in words, with who is likely to have sent it."""
    name = signal.Signals(number).name if number in signal.valid_signals() else "unknown"
    text = f"killed by signal {number} ({name})"
    if number == signal.SIGKILL and out_of_memory:
        return f"{text}: by the system, which ran out of memory meanwhile; use a smaller micro-batch or fewer slots"
    if number == signal.SIGKILL:
        return f"{text}: by a person, a job scheduler, or a memory limit whose counter cannot be read here"
    if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
        return f"{text}: a crash inside a native library; the log may name it"
    return text


def record_failure(folder: JobDir, outcome: Outcome, attempt: int) -> None:
    """Write failure.json for an attempt that could not write it itself, such as a killed one."""
    if read_object(folder.failure_json).get("attempt") != attempt:
        facts = {
            "kind": outcome.kind,
            "message": redact(outcome.message),
            "where": "",
            "rank": None,
            "step": outcome.step,
            "phase": outcome.phase,
            "by_expectation": outcome.by_expectation,
        }
        with told_if_full(folder.failure_json):
            write_json(folder.failure_json, {"t": round(clock.now(folder.root), 3), "attempt": attempt, **facts})


def memory_kills() -> int:
    """How often the kernel has killed for memory: on this machine, and in this process's control group."""
    sources = [(Path("/proc/vmstat"), "oom_kill"), *((path, "oom_kill") for path in _memory_events())]
    return sum(_counter(path, name) for path, name in sources)


def _memory_events() -> list[Path]:
    groups = _text(Path("/proc/self/cgroup")).splitlines()
    return [
        Path("/sys/fs/cgroup") / line[3:].lstrip("/") / "memory.events" for line in groups if line.startswith("0::")
    ]


def _counter(path: Path, name: str) -> int:
    fields = (line.split() for line in _text(path).splitlines())
    return next((int(pair[1]) for pair in fields if pair[0] == name), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""  # not Linux, or not readable here: then it tells nothing


def _fatal_signal(exit_code: int, tail: str) -> int | None:
    """The signal that ended the job; SIGTERM counts last, since torchrun itself sends it to the ranks that are left.

    What stands for a process on another host tells of its signal as shells do.
    """
    forced = set(_FORCED.findall(tail))
    exit_code = 128 - exit_code if exit_code - 128 in signal.valid_signals() else exit_code
    codes = [exit_code, *(int(code) for code, pid in _EXIT_CODE.findall(tail) if pid not in forced)]
    signals = [-code for code in codes if code < 0]
    return next((number for number in signals if number != signal.SIGTERM), signals[0] if signals else None)


def _tail(log: Path, start: int) -> str:
    try:
        with open(log, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""

"""Kinds of failure, and the words by which libraries, kernels and clusters tell them: one table for both planes.

Whoever learns that something else is said adds a line to `_SIGNS`.
"""

import re
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["user", "oom", "killed", "node_lost", "nan", "hang", "preempted", "disk", "error"]
"""The names of `config.resources.Retries`, and `user`, which is never tried again."""

Source = Literal["cluster", "library"]
"""Who says so: a cluster, launcher or watchdog, whose word counts more than what ranks say of it; or a library, which
speaks of its own rank."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """A line that tells what kind of failure it was."""

    kind: FailureKind
    line: str


_SIGNS: tuple[tuple[Source, FailureKind, str], ...] = (
    ("cluster", "preempted", r"(?:CANCELLED|TERMINATED).*DUE TO (?:PREEMPTION|TIME LIMIT)"),
    ("cluster", "node_lost", r"(?:CANCELLED|TERMINATED).*DUE TO (?:NODE FAILURE|JOB REQUEUE)"),
    ("cluster", "node_lost", r"srun: error: (?:Node failure on|Unable to confirm allocation|.*: Node not responding)"),
    ("cluster", "node_lost", r"^host \S+ failed: (?:the connection|its torchrun) "),
    ("cluster", "node_lost", r"\b(?:NodeDiedError|OwnerDiedError|ActorUnschedulableError)\b"),
    ("cluster", "node_lost", r"[Tt]he node (?:with node id|\S+) .*(?:died|dead|was terminated|has been marked dead)"),
    ("cluster", "oom", r"[Dd]etected \d+ oom[-_ ]kill event|Some of (?:your|the step tasks).*oom.kill"),
    ("cluster", "oom", r"\bRay OutOfMemory|node was running low on memory|OutOfMemoryError: Task was killed"),
    ("cluster", "hang", r"Watchdog caught collective operation timeout"),
    ("library", "oom", r"CUDA (?:error: )?out of memory|HIP out of memory|CUDA_ERROR_OUT_OF_MEMORY"),
    ("library", "oom", r"CUBLAS_STATUS_ALLOC_FAILED|CUSOLVER_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"),
    ("library", "oom", r"DefaultCPUAllocator: (?:can't|not enough memory)|[Cc]annot allocate memory|std::bad_alloc"),
    ("library", "oom", r"\b(?:torch|cuda)\.OutOfMemoryError|^MemoryError\b|NCCL.*[Oo]ut of memory"),
    ("library", "disk", r"^rank \d+ failed: no space left"),
    ("library", "disk", r"No space left on device|Disk quota exceeded"),
    ("library", "hang", r"[Tt]imed out (?:waiting|after)|\b[Ww]ait timeout\b|Timeout: .*(?:recv|send|store)"),
)
_COMPILED = tuple((source, kind, re.compile(pattern, re.MULTILINE)) for source, kind, pattern in _SIGNS)


def sign_in(text: str, *sources: Source) -> Sign | None:
    """The first line of the table that `text` holds, with its whole line; `sources` limits who is listened to."""
    for source, kind, pattern in _COMPILED:
        found = pattern.search(text) if not sources or source in sources else None
        if found:
            start, end = text.rfind("\n", 0, found.start()) + 1, text.find("\n", found.end())
            return Sign(kind=kind, line=text[start : end if end >= 0 else None].strip())
    return None

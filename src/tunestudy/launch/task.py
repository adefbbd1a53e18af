"""A job as the executor sees it, and the view of it that people see."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunestudy.config.job import Job
from tunestudy.launch.hang import SignsOfLife
from tunestudy.launch.local import Slot
from tunestudy.launch.outcome import Outcome
from tunestudy.launch.place import Running
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease

State = Literal["waiting", "queued", "paused", "running", "elsewhere", "done", "failed", "blocked", "interrupted"]


@dataclass
class Attempt:
    """A job's processes that this launcher started."""

    running: Running
    claim: Lease
    slot: Slot
    slot_lease: Lease
    started: float
    """`time.monotonic()`."""
    log_start: Mapping[str, int]
    """Bytes that the logs held before, by file name."""
    memory_kills: int
    """The kernel's counter before."""
    signs: SignsOfLife = field(default_factory=SignsOfLife)
    stopped_for: str = ""
    """What it was asked to stop for: a figure outside a band of `expect:`."""

    @property
    def number(self) -> int:
        return self.claim.attempt


@dataclass
class Task:
    """A job of the plan on its way.

    `elsewhere`: its processes run, but another launcher started them. `paused`: it failed and starts again in a while.
    """

    job: Job
    folder: JobDir
    state: State = "waiting"
    trained: bool = False
    """Whether its result is known to be published, so that children can start; benchmarks may be missing."""
    attempt: Attempt | None = None
    failures: list[Outcome] = field(default_factory=list)
    """Of this run."""
    given_up: str = ""
    """Why a failed job was not started again, where that needs words."""
    pause_ends: float = 0.0
    """While it is `paused`: `time.monotonic()` at which it waits for a slot again."""
    seen_claim: int | None = None
    """While it is `elsewhere`: the attempt of the living launcher that has it."""
    signs: SignsOfLife = field(default_factory=SignsOfLife)
    """While it is `elsewhere` and its launcher is gone."""
    blocked_by: str = ""
    note: str = ""
    """The latest change of state in words."""

    @property
    def name(self) -> str:
        """How people know it: which variants it serves and at which seed."""
        first, *more = self.job.variants or ("?",)
        return f"{self.job.id} ({first}{f' +{len(more)}' if more else ''}, seed {self.job.seed})"

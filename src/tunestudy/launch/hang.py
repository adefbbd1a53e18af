"""Jobs whose processes live while their work stands still.

Rank 0's progress.json tells two things: that the process lives (`t`, once a second, from a thread of its own) and when
its work last went on (`moved`: after each micro-batch, part of a merge, batch of questions or generated token; null
while it is at something that may take any time). Ranks that wait for one another end by themselves after `timeout_s`
and name who is missing, so a job gets half as long again before it is ended from here. Clocks are not compared: what
counts is for how long this process saw no change.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir

PATIENCE = 1.5
"""Times `resources.timeout_s`."""
LOOK_S = 1.0
LAST_WORDS_S = 3.0
"""For ranks to write their stacks."""
BLINKED = 0.5
"""Share of the patience: where two looks lie further apart, this process was suspended itself, perhaps with the job."""
STEPPING = ("train", "evaluate", "survey", "merge", "benchmark")
"""Phases whose work is counted."""
TELLING = ("load", "data", "score", "save", *STEPPING)
"""Phases in which a thread tells of life."""


class Ended(Protocol):
    """Processes that can be asked for their stacks, and killed."""

    def show_stacks(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class SignsOfLife:
    """What was seen of one attempt, and since when nothing new."""

    looked: float = 0.0
    seen: dict[str, tuple[Any, float]] = field(default_factory=dict)
    hang: str = ""
    """What stood still, once that was found."""
    found: float = 0.0
    step: int | None = None
    """Where it stood then: one that is woken for its stacks goes on for a moment."""

    def silent_s(self, name: str, value: Any, now: float) -> float:
        """For how long `value` has been what it is; 0 for a value that is not told."""
        if value is None:
            return 0.0
        if name not in self.seen or self.seen[name][0] != value:
            self.seen[name] = value, now
        return now - self.seen[name][1]


def is_due(signs: SignsOfLife, patience_s: float) -> bool:
    """Whether it is time for the next look: once a second."""
    return time.monotonic() - signs.looked >= min(LOOK_S, patience_s / 10)


def end_if_it_hangs(signs: SignsOfLife, running: Ended, folder: JobDir, attempt: int, patience_s: float) -> None:
    """Look at an attempt once a second: one that stands still for `patience_s` is asked for its stacks, then killed."""
    if not is_due(signs, patience_s):
        return
    now = time.monotonic()
    if now - signs.looked > BLINKED * patience_s:
        signs.seen.clear()
    signs.looked = now
    if signs.hang:
        if now - signs.found > LAST_WORDS_S:
            running.kill()
        return
    signs.hang = stands_still(signs, folder, attempt=attempt, patience_s=patience_s, now=now)
    if signs.hang:
        signs.found, signs.step = now, read_object(folder.progress_json).get("step")
        running.show_stacks()


def stands_still(signs: SignsOfLife, folder: JobDir, *, attempt: int, patience_s: float, now: float) -> str:
    """What stood still for too long, in words; empty while the attempt is not in a phase that tells."""
    told = read_object(folder.progress_json)
    phase = str(told.get("phase")).partition(" ")[0]  # of `merge 37%`
    if told.get("attempt") != attempt or phase not in TELLING:
        signs.seen.clear()
        return ""
    where = f"in phase {told['phase']}{_place_in(told)}"
    beat_s, move_s = signs.silent_s("t", told.get("t"), now), signs.silent_s("moved", told.get("moved"), now)
    if beat_s > patience_s:
        return f"rank 0 gave no sign of life for {beat_s:.0f} s {where}: it was suspended, or its disk does not answer"
    if phase in STEPPING and move_s > patience_s:
        waits = f", where rank 0 waits for {told['waits_for']}" if told.get("waits_for") else ""
        return f"no progress for {move_s:.0f} s {where}{waits}; stacks of its ranks are in their logs"
    return ""


def _place_in(told: dict[str, Any]) -> str:
    """How far it had come: a benchmark by its rows, all else by steps where there are any."""
    if told.get("doing"):
        return f" ({told['doing']})"
    return f" after step {told['step']}" if told.get("step") is not None else ""

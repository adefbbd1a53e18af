"""Jobs whose processes live while their work stands still.

Each rank's file (progress.json that of rank 0) tells two things: that the process lives (`t`, once a second, from a
thread of its own) and when its work last went on (`moved`: after each micro-batch, part of a merge, batch of questions
or generated token; null while it is at something that may take any time). Ranks that wait for one another end by
themselves after `timeout_s` and name who is missing, so a job gets half as long again before it is ended from here.
Before the first sign, while Python and torch are loaded, nothing can be told: that may take `start_timeout_s` in all.
Clocks are not compared: what counts is for how long this process saw no change.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from tunestudy.config.resources import Resources
from tunestudy.launch.outcome import Logs
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir

PATIENCE = 1.5
"""Times `resources.timeout_s`."""
START_S = 1800.0
"""Least default of `resources.start_timeout_s`: from a busy file server torch alone may take minutes."""
LOOK_S = 1.0
LAST_WORDS_S = 3.0
"""For ranks to write their stacks."""
OUTLIVED_S = 15.0
"""After this long, processes that were killed will not end soon: nothing ends one that waits inside of the kernel."""
LINE_CHARS = 200
"""Of a log's last line, as it is told."""
BLINKED = 0.5
"""Share of the patience: where two looks lie further apart, this process was suspended itself, perhaps with the job."""
STEPPING = ("train", "evaluate", "survey", "merge", "benchmark")
"""Phases whose work is counted."""
TELLING = ("load", "data", "score", "save", *STEPPING)
"""Phases in which a thread tells of life."""
OVER = ("done", "failed", "interrupted")
"""Phases after which processes only have to end."""
IN_STEP = ("train", "evaluate")
"""Phases in which a rank waits for others in nothing but collectives, which end by themselves."""
_START = "start"
_FRAME = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


class Ended(Protocol):
    """Processes that can be asked for their stacks, and killed."""

    def show_stacks(self) -> None: ...

    def kill(self) -> None: ...


@dataclass(frozen=True)
class Patience:
    """For how long an attempt may stand still."""

    still_s: float
    """Once it has given a sign of life."""
    start_s: float
    """Before that, since it was started."""

    @classmethod
    def of(cls, resources: Resources) -> Self:
        still_s = PATIENCE * resources.timeout_s
        return cls(still_s, resources.start_timeout_s or max(START_S, still_s))


@dataclass
class SignsOfLife:
    """What was seen of one attempt, and since when nothing new."""

    log_start: Mapping[str, int] | None = None
    """Bytes that the logs held before it, by file name; None: not known, as another launcher started it."""
    looked: float = 0.0
    seen: dict[str, tuple[Any, float]] = field(default_factory=dict)
    hang: str = ""
    """What stood still, once that was found."""
    found: float = 0.0
    ended: bool = False
    """Whether its ranks were killed for it."""
    attempt: int = 0
    """Which one that was."""
    rank: int = 0
    """Which one of its ranks stood."""
    step: int | None = None
    """Where it stood then: one that is woken for its stacks goes on for a moment."""
    phase: str = ""
    """Of that step; empty before its first sign of life."""
    outlived: str = ""
    """That its processes do not go although they were killed."""

    def silent_s(self, name: str, value: Any, now: float) -> float:
        """For how long `value` has been what it is; 0 for a value that is not told."""
        if value is None:
            return 0.0
        if name not in self.seen or self.seen[name][0] != value:
            self.seen[name] = value, now
        return now - self.seen[name][1]


def is_due(signs: SignsOfLife, patience: Patience) -> bool:
    """Whether it is time for the next look: once a second."""
    return time.monotonic() - signs.looked >= min(LOOK_S, patience.still_s / 10)


def end_if_it_hangs(signs: SignsOfLife, running: Ended, folder: JobDir, attempt: int, patience: Patience) -> None:
    """Look at an attempt once a second: one that stands still for too long is asked for its stacks, then killed."""
    if not is_due(signs, patience):
        return
    now = time.monotonic()
    if now - signs.looked > BLINKED * patience.still_s:
        signs.seen.clear()
    signs.looked = now
    if signs.hang:
        _end(signs, running, folder, now)
        return
    signs.hang = stands_still(signs, folder, attempt=attempt, patience=patience, now=now)
    if signs.hang:
        told = read_object(folder.progress_json)
        has_begun = told.get("attempt") == attempt
        signs.found, signs.attempt, signs.step = now, attempt, told.get("step") if has_begun else None
        signs.phase = str(told.get("phase") or "") if has_begun else ""
        running.show_stacks()


def _end(signs: SignsOfLife, running: Ended, folder: JobDir, now: float) -> None:
    """Kill what was found to hang, once it had time for its stacks."""
    if now - signs.found <= LAST_WORDS_S:
        return
    if not signs.ended:
        frame = frame_of(Logs(folder, signs.log_start or {}).of_rank(signs.rank))
        signs.hang += f"; rank {signs.rank} stood at {frame}" if frame else ""
        signs.ended = True
    elif now - signs.found > OUTLIVED_S:
        signs.outlived = f"{signs.hang}; it was killed, yet its processes do not go: a disk or a driver holds them"
    running.kill()


def stands_still(signs: SignsOfLife, folder: JobDir, *, attempt: int, patience: Patience, now: float) -> str:
    """What stood still for too long, in words; empty while the attempt is in a phase that does not tell."""
    told, patience_s = read_object(folder.progress_json), patience.still_s
    if told.get("attempt") != attempt:
        return _never_began(signs, folder, attempt=attempt, patience_s=patience.start_s, now=now)
    signs.seen.pop(_START, None)
    phase = _phase_in(told)
    if phase not in (*TELLING, *OVER):
        signs.seen.clear()
        return ""
    others = _of_other_ranks(folder, attempt)
    ranks = {0: told, **others}
    silent = {rank: signs.silent_s(f"t {rank}", one.get("t"), now) for rank, one in ranks.items()}
    moves = {rank: signs.silent_s(f"moved {rank}", one.get("moved"), now) for rank, one in ranks.items()}
    if phase in OVER:
        return f"its processes do not end, {silent[0]:.0f} s after they were {phase}" if silent[0] > patience_s else ""
    for rank, one in ranks.items():
        if silent[rank] > patience_s:
            signs.rank = rank
            for_s = f"no sign of life for {silent[rank]:.0f} s {_where(one)}"
            return f"{_name(rank, one)} gave {for_s}: it was suspended, or its disk does not answer"
    if phase in STEPPING and moves[0] > patience_s:
        waits = f", where rank 0 waits for {told['waits_for']}" if told.get("waits_for") else ""
        return f"no progress for {moves[0]:.0f} s {_where(told)}{waits}; stacks of its ranks are in their logs"
    for rank, one in others.items():
        if _phase_in(one) in IN_STEP and moves[rank] > patience_s:
            signs.rank = rank
            name = _name(rank, one)
            return f"no progress of {name} for {moves[rank]:.0f} s {_where(one)}; stacks of its ranks are in their logs"
    return ""


def _never_began(signs: SignsOfLife, folder: JobDir, *, attempt: int, patience_s: float, now: float) -> str:
    """That an attempt has told nothing since it was started, in words; 0: nobody knows which attempt it is."""
    silent_s = signs.silent_s(_START, attempt or None, now)
    if silent_s <= patience_s:
        return ""
    line = Logs(folder, signs.log_start).last_line[:LINE_CHARS] if signs.log_start is not None else ""
    last = f'; the last line of its log: "{line}"' if line else ""
    return f"no sign of life since it was started {silent_s:.0f} s ago (resources.start_timeout_s){last}"


def frame_of(stacks: str) -> str:
    """Where a process stood by the last stacks in its log: `loader.py:104 in _take`; empty without any.

    The main thread is told last; its innermost frame of ours counts, or else the innermost one.
    """
    _, told, last = stacks.rpartition("(most recent call first):")
    frames = _FRAME.findall(last) if told else []
    ours = [frame for frame in frames if "/tunestudy/" in frame[0]]
    return next((f"{file.rpartition('/')[2]}:{line} in {name}" for file, line, name in ours or frames), "")


def _of_other_ranks(folder: JobDir, attempt: int) -> dict[int, dict[str, Any]]:
    """What those tell that are at something, by rank."""
    found = {int(path.stem.partition("-")[2]): read_object(path) for path in folder.logs.glob("progress-*.json")}
    return {rank: found[rank] for rank in sorted(found) if found[rank].get("attempt") == attempt}


def _phase_in(told: dict[str, Any]) -> str:
    return str(told.get("phase")).partition(" ")[0]  # of `merge 37%`


def _name(rank: int, told: dict[str, Any]) -> str:
    return "rank 0" if rank == 0 else f"rank {rank} on {told.get('host')}"


def _where(told: dict[str, Any]) -> str:
    return f"in phase {told['phase']}{_place_in(told)}"


def _place_in(told: dict[str, Any]) -> str:
    """How far it had come: a benchmark by its rows, all else by steps where there are any."""
    if told.get("doing"):
        return f" ({told['doing']})"
    return f" after step {told['step']}" if told.get("step") is not None else ""

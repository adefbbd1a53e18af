"""Signs of life: progress.json, replaced once a second by a thread, and a bar where someone watches.

Other ranks than 0 have a file of the same form each, `logs/progress-<rank>.json`, for as long as they are at something.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tunestudy.records import clock
from tunestudy.records.atomic import read_object, replace_bytes, write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir

INTERVAL_S = 1.0
BUSY = 0.1
"""Share of the time that a process computes, above which it is at work: that which tells of life needs a thousandth."""

FIELDS = (
    "step",
    "total_steps",
    "epoch",
    "loss",
    "learning_rate",
    "tokens_per_s",
    "eta_s",
    "memory_mb",
    "sparsity",
)

T = TypeVar("T")

_HERE: dict[str, Any] = {}


def note_here(**facts: Any) -> None:
    """Remember what this process has come to."""
    _HERE.update(facts)


def known_here() -> dict[str, Any]:
    """What this process has come to: on every rank, and sooner than it stands in progress.json."""
    return dict(_HERE)


class Progress:
    """What a rank tells about itself. The loop only leaves facts here; the thread writes them out."""

    def __init__(
        self, folder: JobDir, *, writes: bool, rank: int = 0, goes_on: str = "", computing_counts: bool = False
    ) -> None:
        """goes_on: a phase after the job's own work; what was told of that stays, and nothing has to move but what is
        done `at_work`. computing_counts: also a process that computes moves, as one piece of its work may take long.
        """
        before = read_object(folder.progress_json)
        self._path = folder.progress_json if rank == 0 else folder.rank_progress(rank)
        self._rank, self._folder = rank, folder.root
        self._began, self._began_ticks = self.now(), time.monotonic()
        self._moved = None if goes_on else self._began
        self._computing_counts, self._looked, self._computed = computing_counts, time.monotonic(), time.process_time()
        self._elapsed_before = float(before.get("elapsed_s") or 0.0)
        self.first_began = float(before.get("started_at") or self._began)
        """When the first attempt started (unix seconds)."""
        self._facts: dict[str, Any] = {
            **(before if goes_on else dict.fromkeys(FIELDS)),
            "phase": goes_on or "load",
            "doing": None,
            "attempt": int(os.environ.get("TUNESTUDY_ATTEMPT", "1")),
            "pid": os.getpid(),
            "host": host_name(),
            "started_at": self.first_began,
        }
        note_here(**self._facts)
        self._told: dict[str, Any] = {}
        self._end = threading.Event()
        self._bar = _bar() if writes and rank == 0 and sys.stderr.isatty() else None
        self._thread = threading.Thread(target=self._write_until_end, name="progress", daemon=True) if writes else None
        if self._thread is not None:
            self._thread.start()

    @property
    def elapsed_s(self) -> float:
        """Seconds spent on this job so far, over all attempts."""
        return self._elapsed_before + time.monotonic() - self._began_ticks  # dates may be set back meanwhile

    def tell(self, **facts: Any) -> None:
        """Leave facts for the next write."""
        self._facts = {**self._facts, **facts}
        note_here(**facts)
        if self._moved is not None:
            self.move()
        if self._bar is not None:
            self._bar(self._facts)

    def move(self) -> None:
        """The work itself goes on, and not only the thread that tells of it: after every micro-batch, part or token."""
        self._moved = self.now()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around work that moves again and again; before and after it nothing is asked to."""
        self.move()
        try:
            yield
        finally:
            self.rest()

    def rest(self) -> None:
        """Nothing is asked to move, until something does."""
        self._moved = None

    def during(self, phase: str, work: Callable[[], T]) -> T:
        """Do `work` under another phase."""
        before = self._facts["phase"]
        self.tell(phase=phase)
        result = work()
        self.tell(phase=before)
        return result

    def close(self) -> None:
        """Write the last facts and stop."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            if self._rank == 0:
                self._write()
            else:
                self._path.unlink(missing_ok=True)  # what it waits for from now on may take any time

    def now(self) -> float:
        """Unix seconds by the clock that dates the job's files."""
        return clock.now(self._folder)

    def _write_until_end(self) -> None:
        while True:
            self._look_at_computing()
            self._write()
            if self._end.wait(INTERVAL_S):
                return

    def _look_at_computing(self) -> None:
        now, computed = time.monotonic(), time.process_time()
        if self._computing_counts and computed - self._computed > BUSY * (now - self._looked):
            self.move()
        self._looked, self._computed = now, computed

    def _write(self) -> None:
        try:
            told = {"t": self.now(), "moved": self._moved, "elapsed_s": self.elapsed_s}
            if self._rank == 0:
                write_json(self._path, {**self._facts, **told})
            else:
                replace_bytes(self._path, json.dumps({**self._facts, **told}).encode())
        except OSError as error:
            print(f"{self._path} could not be written: {error.strerror or error}", file=sys.stderr)


def _bar() -> Callable[[dict[str, Any]], None]:
    from tqdm import tqdm

    bar = tqdm(unit="step", dynamic_ncols=True)

    def show(facts: dict[str, Any]) -> None:
        if facts["step"] is None:
            return
        bar.total, bar.n = facts["total_steps"], facts["step"]
        shown = {
            "loss": facts["loss"],
            "lr": facts["learning_rate"],
            "MB": facts["memory_mb"],
            "tok/s": facts["tokens_per_s"],
            "sparsity": facts["sparsity"],
        }
        bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items() if value is not None}, refresh=False)
        bar.update(0)
        if facts["step"] == facts["total_steps"]:
            bar.refresh()

    return show

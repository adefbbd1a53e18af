"""What takes long: the report's tables and statistics, made in a process of their own so that the page stays quick."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

LEAST_S = 5.0
REST = 4.0
"""After a making that took T seconds the next one waits for REST × T: a fifth of one core at the most."""
_LOOK_S = 2.0
_NICE = 10


@dataclass(frozen=True)
class Sections:
    """One making of them."""

    html: str = ""
    gallery: str = ""
    """A whole page; empty when no benchmark has predictions to show."""
    gallery_policy: str = ""
    sentence: str = ""
    description: str = ""
    baseline: str | None = None
    variants: tuple[str, ...] = ()
    problem: str = ""
    """Why there are none."""
    made_at: float = 0.0
    """Unix seconds."""
    took_s: float = 0.0


@dataclass
class Maker:
    """Makes them when something changed, no more often than they deserve. `look` never waits."""

    root: Path
    latest: Sections = field(default_factory=Sections)
    version: int = 0
    _pool: ProcessPoolExecutor | None = None
    _future: "Future[Sections] | None" = None
    _made_of: object = None
    _not_before: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, state: object) -> None:
        """Take in what was finished, and begin anew when `state` is not the one that was made of last."""
        with self._lock:
            if self._future is not None and self._future.done():
                self._take(self._future)
                self._future = None
            if self._future is None and state != self._made_of and time.monotonic() >= self._not_before:
                self._begin(state)

    def _begin(self, state: object) -> None:
        try:
            if self._pool is None:
                context = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(1, context, initializer=_belong_to, initargs=(os.getpid(),))
            self._future, self._made_of = self._pool.submit(make, self.root), state
        except BrokenProcessPool:  # killed while it had nothing to do: the next look begins a new one
            self._pool = None
        except OSError as error:  # no memory, processes or open files are left to the machine; later there may be
            self._pool = None
            self._set(Sections(problem=f"no process can be started to make these tables: {error.strerror}"))

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            for process in list(getattr(self._pool, "_processes", {}).values()):
                process.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _take(self, future: "Future[Sections]") -> None:
        failure = future.exception()
        if failure is None:
            made = future.result()
        elif isinstance(failure, BrokenProcessPool):
            self._pool, self._made_of = None, None  # killed from outside, perhaps for memory: made anew
            made = Sections(problem="the process that makes these tables was killed; it is started again")
        else:  # a defect of ours: the rest of the page goes on
            traceback.print_exception(failure)
            made = Sections(problem=f"these tables could not be made ({type(failure).__name__}: {failure})")
        self._set(made)

    def _set(self, made: Sections) -> None:
        self.latest = replace(self.latest, problem=made.problem, took_s=made.took_s) if made.problem else made
        self._not_before = time.monotonic() + max(LEAST_S, REST * self.latest.took_s)
        self.version += 1


def _belong_to(server: int) -> None:
    """Leave Ctrl-C to the server, never outlive it, however it ended, and let it and the browser go first."""
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(server,), daemon=True).start()


def _end_with(server: int) -> None:
    while os.getppid() == server:
        time.sleep(_LOOK_S)
    os._exit(0)


def make(root: Path) -> Sections:
    """Read the whole study and write its sections."""
    from tunestudy.config.errors import StudyError
    from tunestudy.records.layout import StudyDir
    from tunestudy.report.collect import collect
    from tunestudy.report.compare import make_headline
    from tunestudy.report.gallery_page import gallery_policy, render_gallery
    from tunestudy.report.observations import headline_sentence
    from tunestudy.report.page import render_sections

    start = time.monotonic()
    try:
        facts = collect(StudyDir(root))
        headline = make_headline(facts)
        gallery = render_gallery(facts, headline)
        return Sections(
            html=render_sections(facts, headline, has_gallery=gallery is not None),
            gallery=gallery or "",
            gallery_policy=gallery_policy(),
            sentence=headline_sentence(facts, headline),
            description=facts.description,
            baseline=facts.baseline,
            variants=tuple(facts.variants),
            made_at=time.time(),
            took_s=time.monotonic() - start,
        )
    except (StudyError, OSError) as error:
        return Sections(problem=str(error), made_at=time.time(), took_s=time.monotonic() - start)

"""Who goes next: the packing of what is left, made anew as jobs end and times become known."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunestudy.config.job import Job
from tunestudy.launch.local import Slot
from tunestudy.launch.task import Task
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir
from tunestudy.study.packing.dispatch import Seat, Work, fits
from tunestudy.study.packing.pack import pack

_LATE = 0.05
"""A job that runs longer than expected is taken to need this share of its time still."""
_THOROUGH = 200
_SOME = 50
"""With many jobs left, the packing is made anew when one in so many of them has ended."""


def seats_of(slots: Sequence[Slot]) -> list[Seat]:
    """Slots as packing knows them."""
    return [Seat(name=slot.name, gpu=slot.gpus, memory_mb=slot.memory_mb) for slot in slots]


def unknown_works(jobs: Iterable[Job]) -> dict[str, Work]:
    """Jobs of which nothing is known but what they need: each takes as long as any other."""
    return {job.id: Work(id=job.id, seconds=1.0, needs=job.needs, known=False) for job in jobs}


def remembered_works(study: StudyDir, jobs: Iterable[Job]) -> dict[str, Work]:
    """What the latest `run` knew of these jobs; as `unknown_works` where it said nothing."""
    told = read_object(study.packing).get("works") or []
    known = {entry["id"]: Work(**{**entry, "needs": tuple(entry["needs"])}) for entry in told}
    return {name: known.get(name, work) for name, work in unknown_works(jobs).items()}


@dataclass
class Queue:
    """Orders jobs that can start. The only state in it is what it has seen; the files stay the truth."""

    works: Mapping[str, Work]
    """By job id; `known=False` where `seconds` is no measurement."""
    slots: Sequence[Slot]
    _rank: dict[str, int] = field(default_factory=dict)
    _ended_then: int = -1
    _took: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of jobs that ended here by `id` of their settings: seeds share the object."""
    _running: dict[str, float] = field(default_factory=dict)
    """`time.monotonic()` at the start of what runs."""

    def ranked(self, ready: Sequence[Task], tasks: Sequence[Task]) -> list[Task]:
        """`ready` in the order in which slots should take them; `tasks`: all, parents first."""
        self._look(tasks)
        waiting = sum(task.state == "waiting" for task in tasks)
        ended = len(tasks) - waiting - sum(task.state in ("running", "elsewhere") for task in tasks)
        if self._ended_then < 0 or abs(ended - self._ended_then) >= max(1, waiting // _SOME):
            self._rank = self._packed(tasks)
            self._ended_then = ended
        last = len(self._rank)
        return sorted(ready, key=lambda task: self._rank.get(task.job.id, last))

    def fits(self, task: Task, slot: Slot, tasks: Iterable[Task]) -> bool:
        """Whether there is memory for the job beside those that share the slot's GPUs."""
        if slot.memory_mb is None:
            return True
        beside = [other for other in tasks if other.attempt and other.attempt.slot.gpus == slot.gpus]
        sizes = [self.works[other.job.id].memory_mb for other in beside]
        return fits(self.works[task.job.id].memory_mb, sizes, slot.memory_mb)

    def _look(self, tasks: Sequence[Task]) -> None:
        """Remember how long jobs took that have ended since the last look."""
        now = time.monotonic()
        for task in tasks:
            began = self._running.pop(task.job.id, None)
            if task.attempt is not None:
                self._running[task.job.id] = task.attempt.started
            elif began is not None and task.state == "done":
                self._took.setdefault(id(task.job.settings), []).append(now - began)

    def _packed(self, tasks: Sequence[Task]) -> dict[str, int]:
        """Place of every waiting job in the packing of what is left."""
        left = [task for task in tasks if task.state in ("waiting", "running", "elsewhere")]
        works = with_guesses([self._now(task) for task in left])
        packing = pack(works, seats_of(self.slots), thorough=len(works) <= _THOROUGH)
        return {name: place for place, name in enumerate(packing.order)}

    def _now(self, task: Task) -> Work:
        work = self.works[task.job.id]
        took = self._took.get(id(task.job.settings)) if task.job.settings is not None else None
        if took and not work.known:
            work = replace(work, seconds=statistics.fmean(took), weights_s=None, known=True)
        if task.state == "waiting":
            return work
        gone = time.monotonic() - task.attempt.started if task.attempt else 0.0
        return replace(
            work,
            seconds=max(work.seconds - gone, work.seconds * _LATE),
            weights_s=0.0 if task.trained else None if work.weights_s is None else max(work.weights_s - gone, 0.0),
            on=task.attempt.slot.name if task.attempt else "elsewhere",
        )


def with_guesses(works: Sequence[Work]) -> list[Work]:
    """Works of unknown time are taken to need the median of those that are known; all one second where none is."""
    known = [work.seconds for work in works if work.known and work.seconds > 0]
    middle = statistics.median(known) if known else 1.0
    return [
        work if work.known else replace(work, seconds=middle, weights_s=0.0 if work.weights_s == 0 else None)
        for work in works
    ]

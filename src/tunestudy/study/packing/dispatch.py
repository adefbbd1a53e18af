"""Which job starts when and on which slot, once it is settled who goes first: list scheduling without waiting.

A free slot takes the first ready job that fits on it and never waits for a better one: times are estimates, and a slot
that waited for a job that is late would be lost.
"""

import bisect
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Work:
    """One job as far as packing goes. Times are seconds from now on."""

    id: str
    seconds: float
    """How long it holds its slot."""
    weights_s: float | None = None
    """After how long its weights are there, so that jobs that need it may start; None: at its end."""
    needs: tuple[str, ...] = ()
    """Ids; those that are not among the works are done."""
    priority: int = 0
    memory_mb: float | None = None
    """Of a slot's GPUs, each; None: unknown, so it shares a GPU of limited memory with nobody."""
    known: bool = True
    """False: nothing is known of its time; `seconds` stands in for it."""
    on: str | None = None
    """It runs already, on that slot; a name that is no slot's: somewhere that takes none of them."""


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A slot. All jobs of a study have the same number of ranks: a slot is what one job takes, one GPU or several."""

    name: str
    gpu: str = ""
    """Slots of one name share GPUs; empty: it shares with none."""
    memory_mb: float | None = None
    """What the jobs on these GPUs may take together, each GPU; None: not looked at."""


@dataclass(frozen=True)
class Placement:
    """When and where a work runs. Seconds from now."""

    slot: str
    start: float
    end: float


@dataclass(kw_only=True)
class Instance:
    """Works and seats by index, with what every schedule of them asks for."""

    works: Sequence[Work]
    seats: Sequence[Seat]
    children: list[list[int]] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    """How many of the works that it needs are not done."""
    tail: list[float] = field(default_factory=list)
    """Seconds from a work's start to the end of the longest chain that waits for it."""
    priority: list[int] = field(default_factory=list)
    """The highest among a work and all that wait for it."""

    def __post_init__(self) -> None:
        place = {work.id: index for index, work in enumerate(self.works)}
        self.children = [[] for _ in self.works]
        self.waiting = [0] * len(self.works)
        for index, work in enumerate(self.works):
            for need in dict.fromkeys(work.needs):
                if need in place:
                    self.children[place[need]].append(index)
                    self.waiting[index] += 1
        self.tail = [work.seconds for work in self.works]
        self.priority = [work.priority for work in self.works]
        for index in reversed(list(self.parents_first())):
            for child in self.children[index]:
                self.tail[index] = max(self.tail[index], self.weights_s(index) + self.tail[child])
                self.priority[index] = max(self.priority[index], self.priority[child])

    def weights_s(self, index: int) -> float:
        """Seconds from a work's start until its children may start."""
        work = self.works[index]
        return work.seconds if work.weights_s is None else min(work.weights_s, work.seconds)

    def parents_first(self) -> Iterator[int]:
        """All works in an order in which they can run."""
        left = list(self.waiting)
        ready = [index for index, count in enumerate(left) if not count]
        for index in ready:
            for child in self.children[index]:
                left[child] -= 1
                if not left[child]:
                    ready.append(child)
        assert len(ready) == len(self.works), "jobs that need each other were planned"
        yield from ready

    @property
    def critical_path_s(self) -> float:
        """No number of slots ends it sooner."""
        return max(self.tail, default=0.0)

    @property
    def lower_bound_s(self) -> float:
        """No order of the works ends it sooner on these seats."""
        names = {seat.name for seat in self.seats}
        holding = [work for work in self.works if work.on is None or work.on in names]
        held = sum(work.seconds for work in holding) / len(self.seats)
        return max(self.critical_path_s, held, self._memory_bound_s(holding))

    def _memory_bound_s(self, holding: Sequence[Work]) -> float:
        """All memory × time that is wanted over all memory; 0 where memory is not looked at."""
        limits = {seat.gpu: seat.memory_mb for seat in self.seats}
        known = [limit for limit in limits.values() if limit]
        if len(known) < len(limits) or not known:
            return 0.0
        smallest = min(known)
        wanted = sum(work.seconds * min(_claim(work.memory_mb, smallest), smallest) for work in holding)
        return wanted / sum(known)


class Floor:
    """The slots and GPUs at one moment: which are free, and what memory is left."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = seats
        self.free = list(range(len(seats)))
        self.limited = any(seat.memory_mb is not None for seat in seats)
        self._taken: dict[str, dict[int, float]] = defaultdict(dict)

    def seat_for(self, index: int, work: Work) -> int | None:
        """The first free seat that has room; it is taken then."""
        for seat in self.free if self.limited else self.free[:1]:
            if self._fits(self.seats[seat], work):
                self.take(seat, index, work)
                return seat
        return None

    def has_room(self, work: Work) -> bool:
        """Whether there is a free seat for it."""
        return any(self._fits(self.seats[seat], work) for seat in (self.free if self.limited else self.free[:1]))

    def take(self, seat: int, index: int, work: Work) -> None:
        self.free.remove(seat)
        if self.limited:
            gpu = self.seats[seat]
            self._taken[gpu.gpu][index] = _claim(work.memory_mb, gpu.memory_mb)

    def leave(self, seat: int, index: int) -> None:
        bisect.insort(self.free, seat)
        if self.limited:
            self._taken[self.seats[seat].gpu].pop(index, None)

    def _fits(self, seat: Seat, work: Work) -> bool:
        return seat.memory_mb is None or fits(work.memory_mb, self._taken[seat.gpu].values(), seat.memory_mb)


def fits(memory_mb: float | None, beside: Iterable[float | None], limit_mb: float) -> bool:
    """Whether a work may go on a GPU where others are; alone it always may: no other GPU has more room for it."""
    taken = [_claim(other, limit_mb) for other in beside]
    return not taken or sum(taken) + _claim(memory_mb, limit_mb) <= limit_mb


def _claim(memory_mb: float | None, limit_mb: float | None) -> float:
    return (limit_mb or 0.0) if memory_mb is None else memory_mb


@dataclass
class Dispatch:
    """A schedule: placements by index, the order of starting, and its length."""

    placements: dict[int, Placement]
    order: list[int]
    makespan: float


def dispatch(instance: Instance, rank: Sequence[float], *, urgent_below: int = 0) -> Dispatch:
    """Start works whenever a slot is free: highest priority first, among those the lowest `rank`.

    `urgent_below`: while no more works than that are ready, the one that the longest chain waits for goes first.
    """
    return _Run(instance, rank, urgent_below).all()


class _Run:
    """One pass of the clock."""

    def __init__(self, instance: Instance, rank: Sequence[float], urgent_below: int) -> None:
        self.of, self.urgent_below = instance, urgent_below
        priority = instance.priority
        self.key = [(-priority[i], rank[i], i) for i in range(len(instance.works))]
        self.urgency = [(-priority[i], -instance.tail[i], i) for i in range(len(instance.works))]
        self.waiting = list(instance.waiting)
        self.floor = Floor(instance.seats)
        self.events: list[tuple[float, int, int, int]] = []
        """(time, 0 weights or 1 end, work, seat or −1)."""
        self.ready: list[tuple[float, float, int]] = []
        self.smallest_mb = min((work.memory_mb for work in instance.works if work.memory_mb is not None), default=None)
        self.placements: dict[int, Placement] = {}
        self.order: list[int] = []

    def all(self) -> Dispatch:
        names = {seat.name: place for place, seat in enumerate(self.of.seats)}
        for index, work in enumerate(self.of.works):
            if work.on is not None:
                seat = names.get(work.on, -1)
                if seat in self.floor.free:
                    self.floor.take(seat, index, work)
                self._begin(index, seat, 0.0)
            elif not self.waiting[index]:
                self._add(index)
        self._fill(0.0)
        now = 0.0
        while self.events:
            now = self.events[0][0]
            while self.events and self.events[0][0] == now:
                self._happen(*heapq.heappop(self.events)[1:])
            self._fill(now)
        return Dispatch(self.placements, self.order, now)

    def _add(self, index: int) -> None:
        heapq.heappush(self.ready, self.key[index])

    def _happen(self, kind: int, index: int, seat: int) -> None:
        if kind == 1:
            if seat >= 0:
                self.floor.leave(seat, index)
            return
        for child in self.of.children[index]:
            self.waiting[child] -= 1
            if not self.waiting[child] and self.of.works[child].on is None:
                self._add(child)

    def _fill(self, now: float) -> None:
        put_aside: list[int] = []
        while self.floor.free and self.ready:
            index = self._next()
            seat = self.floor.seat_for(index, self.of.works[index])
            if seat is not None:
                self._begin(index, seat, now)
                continue
            put_aside.append(index)
            if self.of.works[index].memory_mb == self.smallest_mb:
                break  # nothing smaller is ready
        for index in put_aside:
            self._add(index)

    def _next(self) -> int:
        if len(self.ready) > self.urgent_below:
            return heapq.heappop(self.ready)[2]
        chosen = min(self.ready, key=lambda entry: self.urgency[entry[2]])
        self.ready.remove(chosen)
        heapq.heapify(self.ready)
        return chosen[2]

    def _begin(self, index: int, seat: int, now: float) -> None:
        work = self.of.works[index]
        name = self.of.seats[seat].name if seat >= 0 else work.on or ""
        self.placements[index] = Placement(name, now, now + work.seconds)
        if work.on is None:
            self.order.append(index)
        heapq.heappush(self.events, (now + self.of.weights_s(index), 0, index, seat))
        heapq.heappush(self.events, (now + work.seconds, 1, index, seat))

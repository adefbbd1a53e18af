"""The best order of a few jobs, by looking at all that matter: depth first, cut where a bound says enough."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tunestudy.study.packing.dispatch import Dispatch, Floor, Instance, dispatch

GOOD_ENOUGH = 0.99
"""An order takes the place of another only when it is more than 1 % shorter: so far the file's order stands."""
_Event = tuple[float, int, int, int]
"""(time, 0 weights or 1 end, work, seat or −1)."""


@dataclass(frozen=True)
class _Node:
    """A moment at which somebody must be chosen. Times are seconds from now."""

    now: float
    events: tuple[_Event, ...]
    """To come, sorted."""
    ready: tuple[int, ...]
    waiting: tuple[int, ...]
    order: tuple[int, ...]
    """Works in the order in which they were started."""
    left_s: float
    """Of works that have not begun."""
    reach: float
    """No schedule from here ends sooner, by the chains of what runs and what has ended."""
    after: tuple[int, int] = (-(10**9), -1)
    """(−priority, work) of the last choice at this moment: equal slots need only be filled in one order."""


@dataclass
class _Search:
    instance: Instance
    best: Dispatch
    nodes_left: int
    kinds: list[tuple[object, ...]] = field(default_factory=list)

    def descend(self, node: _Node) -> None:
        """Try every choice at `node`, the longest chains first."""
        if self.nodes_left <= 0 or self._bound(node) >= GOOD_ENOUGH * self.best.makespan:
            return
        self.nodes_left -= 1
        seen: set[tuple[object, ...]] = set()
        floor = self._floor(node)
        for index in self._choices(node, floor):
            if self.kinds[index] not in seen:
                seen.add(self.kinds[index])
                self._advance(self._started(node, index))

    def _floor(self, node: _Node) -> Floor:
        floor = Floor(self.instance.seats)
        for _, kind, index, seat in node.events:
            if kind == 1 and seat >= 0:
                floor.take(seat, index, self.instance.works[index])
        return floor

    def _choices(self, node: _Node, floor: Floor) -> list[int]:
        of = self.instance
        fitting = [index for index in node.ready if floor.has_room(of.works[index])]
        top = max((of.priority[index] for index in fitting), default=0)
        among = [index for index in fitting if of.priority[index] == top]
        if not floor.limited:
            among = [index for index in among if (-top, index) > node.after]
        return sorted(among, key=lambda index: -of.tail[index])

    def _started(self, node: _Node, index: int) -> _Node:
        of = self.instance
        work, floor = of.works[index], self._floor(node)
        seat = floor.seat_for(index, work)
        assert seat is not None, "it was among those that fit"
        new = [(node.now + of.weights_s(index), 0, index, seat), (node.now + work.seconds, 1, index, seat)]
        return _Node(
            node.now,
            tuple(sorted([*node.events, *new])),
            tuple(other for other in node.ready if other != index),
            node.waiting,
            (*node.order, index),
            node.left_s - work.seconds,
            max(node.reach, node.now + of.tail[index]),
            (-of.priority[index], index),
        )

    def _advance(self, node: _Node) -> None:
        """Let time pass until somebody must be chosen, then descend; at the end of all, keep what is better."""
        floor = self._floor(node)
        if any(floor.has_room(self.instance.works[index]) for index in node.ready):
            self.descend(node)
            return
        now, events, ready, waiting = node.now, list(node.events), list(node.ready), list(node.waiting)
        while events:
            now = events[0][0]
            while events and events[0][0] == now:
                _, kind, index, _ = events.pop(0)
                for child in self.instance.children[index] if kind == 0 else ():
                    waiting[child] -= 1
                    if not waiting[child] and self.instance.works[child].on is None:
                        ready.append(child)
            later = _Node(now, tuple(events), tuple(ready), tuple(waiting), node.order, node.left_s, node.reach)
            floor = self._floor(later)
            if any(floor.has_room(self.instance.works[index]) for index in ready):
                self.descend(later)
                return
        if now < GOOD_ENOUGH * self.best.makespan:
            self._keep(node.order)

    def _keep(self, order: Sequence[int]) -> None:
        rank = [0.0] * len(self.instance.works)
        for place, index in enumerate(order):
            rank[index] = place
        found = dispatch(self.instance, rank)
        if found.makespan < GOOD_ENOUGH * self.best.makespan:
            self.best = found

    def _bound(self, node: _Node) -> float:
        of = self.instance
        chains = max((node.now + of.tail[index] for index in node.ready), default=0.0)
        running = sum(time - node.now for time, kind, _, seat in node.events if kind == 1 and seat >= 0)
        return max(node.reach, chains, node.now + (running + node.left_s) / len(of.seats))


def search(instance: Instance, best: Dispatch, *, most_nodes: int) -> tuple[Dispatch, bool]:
    """A schedule more than 1 % shorter than `best` where there is one, and whether all that matter were looked at.

    Schedules are those of `dispatch`: no slot waits while a job could start on it. No clock is asked: the same works
    are always packed alike.
    """
    start = _first(instance)
    looking = _Search(instance, best, most_nodes, kinds_of(instance))
    looking._advance(start)
    return looking.best, looking.nodes_left > 0


def _first(instance: Instance) -> _Node:
    names = {seat.name: place for place, seat in enumerate(instance.seats)}
    events: list[_Event] = []
    for index, work in enumerate(instance.works):
        if work.on is not None:
            seat = names.get(work.on, -1)
            events += [(instance.weights_s(index), 0, index, seat), (work.seconds, 1, index, seat)]
    ready = [i for i, work in enumerate(instance.works) if work.on is None and not instance.waiting[i]]
    reach = max((instance.tail[i] for i, work in enumerate(instance.works) if work.on is not None), default=0.0)
    left_s = sum(work.seconds for work in instance.works if work.on is None)
    return _Node(0.0, tuple(sorted(events)), tuple(ready), tuple(instance.waiting), (), left_s, reach)


def kinds_of(instance: Instance) -> list[tuple[object, ...]]:
    """Equal for works whose exchange changes nothing, as those of two seeds: one of them is tried."""
    kinds: list[tuple[object, ...]] = [() for _ in instance.works]
    for index in reversed(list(instance.parents_first())):
        work = instance.works[index]
        below = [
            kinds[child] if instance.waiting[child] == 1 else ("shared", child) for child in instance.children[index]
        ]
        own = (work.seconds, instance.weights_s(index), work.memory_mb, instance.priority[index])
        kinds[index] = (*own, tuple(sorted(below, key=repr)))
    return kinds

"""Every way of packing a few jobs, waiting of slots included: what `tunestudy.study.packing.pack` is held against."""

from collections.abc import Sequence

from tunestudy.study.packing.dispatch import Work

_ROUNDING = 1e-9
_SHORTER = 0.999


def best_makespan(works: Sequence[Work], slots: int, *, known: float = float("inf")) -> float:
    """The shortest that any schedule takes, or `known` when none is 0.1 % shorter. Priorities, memory: not looked at.

    Jobs are begun in every order that their parents allow, each as soon as it can after the one before: that meets
    every schedule worth having, those in which a slot is left free for a job that comes later among them.
    """
    return _Every(works, slots, known).look()


class _Every:
    def __init__(self, works: Sequence[Work], slots: int, known: float) -> None:
        place = {work.id: index for index, work in enumerate(works)}
        self.needs = [[place[need] for need in work.needs] for work in works]
        self.seconds = [work.seconds for work in works]
        self.weights = [work.seconds if work.weights_s is None else work.weights_s for work in works]
        self.slots, self.best = slots, known
        self.children: list[set[int]] = [set() for _ in works]
        for index, needs in enumerate(self.needs):
            for need in needs:
                self.children[need].add(index)
        self.tail = list(self.seconds)
        for index in reversed(range(len(works))):  # parents come first
            below = max((self.tail[child] for child in self.children[index]), default=0.0)
            self.tail[index] = max(self.seconds[index], self.weights[index] + below)
        self.seen: dict[object, float] = {}

    def look(self) -> float:
        self._go((0.0,) * self.slots, 0.0, {}, 0.0)
        return self.best

    def _go(self, free_at: tuple[float, ...], last: float, weights_at: dict[int, float], end: float) -> None:
        left = [index for index in range(len(self.seconds)) if index not in weights_at]
        work = sum(self.seconds[index] for index in left)
        if max(end, (sum(free_at) + work) / self.slots) >= _SHORTER * self.best:
            return
        if not left:
            self.best = end
            return
        open_ends = tuple((index, at) for index, at in weights_at.items() if self.children[index].intersection(left))
        state = (tuple(left), free_at, tuple(sorted(open_ends)))
        if self.seen.get(state, float("inf")) <= last:
            return  # others led here as early
        self.seen[state] = last
        for index in left:
            if any(need not in weights_at for need in self.needs[index]):
                continue
            start = max([last, free_at[0], *(weights_at[need] for need in self.needs[index])])
            if start + self.tail[index] >= _SHORTER * self.best:
                continue
            slot = max(place for place in range(self.slots) if free_at[place] <= start + _ROUNDING)
            ends = start + self.seconds[index]
            then = tuple(sorted([*free_at[:slot], *free_at[slot + 1 :], ends]))
            self._go(then, start, {**weights_at, index: start + self.weights[index]}, max(end, ends))

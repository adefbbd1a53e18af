"""Every way of packing a few jobs, waiting of slots included: what `tunestudy.study.packing` is held against."""

from collections.abc import Sequence

from tunestudy.study.dispatch import Work

_ROUNDING = 1e-9


def best_makespan(works: Sequence[Work], slots: int, *, known: float = float("inf")) -> float:
    """The shortest that any schedule takes, or `known` when none is shorter. Priorities and memory are not looked at.

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

    def look(self) -> float:
        self._go((0.0,) * self.slots, 0.0, {}, 0.0)
        return self.best

    def _go(self, free_at: tuple[float, ...], last: float, weights_at: dict[int, float], end: float) -> None:
        left = [index for index in range(len(self.seconds)) if index not in weights_at]
        work = sum(self.seconds[index] for index in left)
        if max(end, (sum(free_at) + work) / self.slots) >= self.best:
            return
        if not left:
            self.best = end
            return
        for index in left:
            if any(need not in weights_at for need in self.needs[index]):
                continue
            start = max([last, free_at[0], *(weights_at[need] for need in self.needs[index])])
            slot = max(place for place in range(self.slots) if free_at[place] <= start + _ROUNDING)
            ends = start + self.seconds[index]
            then = tuple(sorted([*free_at[:slot], *free_at[slot + 1 :], ends]))
            self._go(then, start, {**weights_at, index: start + self.weights[index]}, max(end, ends))

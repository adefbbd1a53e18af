"""Whether a study fits into its `resources.wall_clock`, and what would have to give where it does not."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.study.packing.dispatch import Instance, Seat, Work
from tunestudy.study.packing.pack import Packing, pack

_THOROUGH = 200
"""With more jobs than this, what-ifs are answered by the first good order."""


@dataclass(frozen=True, kw_only=True)
class Serves:
    """What a job is there for."""

    variants: tuple[str, ...]
    seed: int | None
    """None: it is the same at every seed."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a packing means for the budget. Times in seconds."""

    wall_clock_s: float
    makespan_s: float
    critical_path_s: float
    lower_bound_s: float
    longest_chain: tuple[str, ...]
    """Job ids, the first one first."""
    slots: int
    slots_enough: int | None = None
    """The fewest slots on which it fits; None where no number is enough, or where it fits anyway."""
    without_variants: tuple[str, ...] | None = None
    """Variants that, left out, make it fit: those of the lowest priority, the last of the file first. None: not so."""
    with_seeds: tuple[int, ...] | None = None
    """The seeds that fit, the first ones of the study. None: not even one."""

    @property
    def fits(self) -> bool:
        return self.makespan_s <= self.wall_clock_s

    @property
    def over_s(self) -> float:
        """How much too long it takes; negative: how much is left."""
        return self.makespan_s - self.wall_clock_s

    def as_json(self) -> dict[str, Any]:
        return {
            "wall_clock_s": self.wall_clock_s,
            "fits": self.fits,
            "makespan_s": round(self.makespan_s, 3),
            "over_s": round(self.over_s, 3),
            "critical_path_s": round(self.critical_path_s, 3),
            "lower_bound_s": round(self.lower_bound_s, 3),
            "longest_chain": list(self.longest_chain),
            "slots": self.slots,
            "slots_enough": self.slots_enough,
            "fits_without_variants": None if self.without_variants is None else list(self.without_variants),
            "fits_with_seeds": None if self.with_seeds is None else list(self.with_seeds),
        }


def judge(
    works: Sequence[Work],
    seats: Sequence[Seat],
    packing: Packing,
    *,
    wall_clock_s: float,
    serves: Mapping[str, Serves],
    expendable: Sequence[str],
    seeds: Sequence[int],
) -> Verdict:
    """Hold `packing` of `works` on `seats` against the budget.

    `serves`: by work id. `expendable`: variants that may be left out, the one to go first first. `seeds`: in order.
    """
    facts: dict[str, Any] = {
        "wall_clock_s": wall_clock_s,
        "makespan_s": packing.makespan,
        "critical_path_s": packing.critical_path_s,
        "lower_bound_s": packing.lower_bound_s,
        "longest_chain": longest_chain(works, seats),
        "slots": len(seats),
    }
    if packing.makespan <= wall_clock_s:
        return Verdict(**facts)

    def makespan(kept: Sequence[Work], on: Sequence[Seat]) -> float:
        return pack(kept, on, thorough=len(works) <= _THOROUGH).makespan if kept else 0.0

    def fits_without(count: int) -> bool:
        gone = frozenset(expendable[:count])
        return makespan(_serving(works, lambda job: not gone.issuperset(serves[job].variants)), seats) <= wall_clock_s

    def fits_with(count: int) -> bool:
        first = {None, *seeds[:count]}
        return makespan(_serving(works, lambda job: serves[job].seed in first), seats) <= wall_clock_s

    dropped = _smallest(fits_without, 1, len(expendable))
    fewer = _smallest(lambda left_out: fits_with(len(seeds) - left_out), 1, len(seeds) - 1)
    enough = _smallest(lambda count: makespan(works, more_seats(seats, count)) <= wall_clock_s, len(seats), len(works))
    return Verdict(
        **facts,
        slots_enough=enough,
        without_variants=None if dropped is None else tuple(expendable[:dropped]),
        with_seeds=None if fewer is None else tuple(seeds[: len(seeds) - fewer]),
    )


def longest_chain(works: Sequence[Work], seats: Sequence[Seat]) -> tuple[str, ...]:
    """Ids of the jobs that, one after the other, take longest."""
    instance = Instance(works=works, seats=seats)
    chain: list[int] = []
    below: Collection[int] = range(len(works))
    while below:
        chain.append(max(below, key=lambda index: (instance.tail[index], -index)))
        through = instance.tail[chain[-1]] - instance.weights_s(chain[-1])
        below = [child for child in instance.children[chain[-1]] if instance.tail[child] >= through - 1e-9]
    return tuple(works[index].id for index in chain)


def more_seats(seats: Sequence[Seat], count: int) -> list[Seat]:
    """`count` slots like these."""
    names = [f"more{place}" for place in range(len(seats), count)]
    return [*seats[:count], *(Seat(name=name, gpu=name, memory_mb=seats[0].memory_mb) for name in names)]


def _serving(works: Sequence[Work], wanted: Callable[[str], bool]) -> list[Work]:
    """The wanted jobs, and all that these need."""
    by_id = {work.id: work for work in works}
    kept: set[str] = set()
    ahead = [work.id for work in works if wanted(work.id)]
    while ahead:
        job = ahead.pop()
        if job not in kept and job in by_id:
            kept.add(job)
            ahead += by_id[job].needs
    return [work for work in works if work.id in kept]


def _smallest(true: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number from `low` to `high` for which it is `true`, as if it stayed so from there on."""
    if low > high or not true(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle + 1, high)
    return low

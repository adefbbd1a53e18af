"""Packing jobs on slots: who runs when and where, so that a study ends as soon as it can.

    packing = pack(works, seats)

The rules, in this order. A free slot never waits while a job could start on it. Of the jobs that could, one of the
highest `priority:` goes first; a job that others wait for has the highest of theirs. Among equals the length of the
whole decides, and where that differs by less than 1 %, the order of the plan: by seed, then as the file names variants.

Few jobs are searched for the best order; of many, the best of several orders is taken and improved by trial. No clock
and no chance is in it: the same works are packed alike on every machine.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.study.packing.branch_and_bound import GOOD_ENOUGH, search
from tunestudy.study.packing.dispatch import Dispatch, Instance, Placement, Seat, Work, dispatch

FEW = 12
"""So many jobs that have not begun are searched through."""
_NODES = 20_000
_EVENTS = 80_000
"""Starts of jobs that all trials together may play through."""
_MOST_TRIALS = 400


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Who runs when and where. Times are seconds from now."""

    placements: Mapping[str, Placement]
    """By job id."""
    order: Sequence[str]
    """Ids in the order in which they start; without those that run already."""
    makespan: float
    """When the last one ends."""
    critical_path_s: float
    """The longest chain of jobs that wait for each other: no number of slots ends it sooner."""
    lower_bound_s: float
    """The longer of that and all work ÷ slots: no order ends it sooner."""
    proven: bool
    """Whether no order that keeps to the rules is more than 1 % shorter."""
    slots: Sequence[str]
    guessed: frozenset[str]
    """Jobs whose time is not known."""

    def as_json(self) -> dict[str, Any]:
        return {
            "makespan_s": round(self.makespan, 3),
            "critical_path_s": round(self.critical_path_s, 3),
            "lower_bound_s": round(self.lower_bound_s, 3),
            "proven_within_1_percent": self.proven,
            "slots": list(self.slots),
            "jobs": [
                {
                    "id": name,
                    "slot": placement.slot,
                    "start_s": round(placement.start, 3),
                    "end_s": round(placement.end, 3),
                    "known": name not in self.guessed,
                }
                for name, placement in self.placements.items()
            ],
        }


def pack(works: Sequence[Work], seats: Sequence[Seat], *, thorough: bool = True) -> Packing:
    """The packing of `works` (in the order of the plan) on `seats`; what runs already stays where it is.

    Never longer than by the plan's own order, at most 1 % longer than with the longest chains first. `thorough`: try
    more than the few orders that are good as a rule.
    """
    assert seats, "a place without slots"
    instance = Instance(works=works, seats=seats)
    best, proven = _best(instance, thorough=thorough)
    return Packing(
        placements={instance.works[index].id: placed for index, placed in best.placements.items()},
        order=[works[index].id for index in best.order],
        makespan=best.makespan,
        critical_path_s=instance.critical_path_s,
        lower_bound_s=instance.lower_bound_s,
        proven=proven,
        slots=[seat.name for seat in seats],
        guessed=frozenset(work.id for work in works if not work.known),
    )


def _best(instance: Instance, *, thorough: bool) -> tuple[Dispatch, bool]:
    enough = instance.lower_bound_s / GOOD_ENOUGH
    best = dispatch(instance, range(len(instance.works)))
    for rank, urgent_below in _orders(instance):
        if best.makespan <= enough:
            return best, True
        best = _shorter(best, dispatch(instance, rank, urgent_below=urgent_below))
    if not thorough:
        return best, best.makespan <= enough
    if sum(work.on is None for work in instance.works) <= FEW:
        return search(instance, best, most_nodes=_NODES)
    return _improved(instance, best, enough)


def _shorter(best: Dispatch, other: Dispatch) -> Dispatch:
    return other if other.makespan < GOOD_ENOUGH * best.makespan else best


def _orders(instance: Instance) -> list[tuple[Sequence[float], int]]:
    """Ranks to try, those that leave most of the plan's order first."""
    plan, seats = range(len(instance.works)), len(instance.seats)
    chains = [-tail for tail in instance.tail]
    longest = [-work.seconds for work in instance.works]
    return [(plan, seats + 1), (plan, 2 * seats), (plan, 4 * seats), (chains, 0), (longest, 0)]


def _improved(instance: Instance, best: Dispatch, enough: float) -> tuple[Dispatch, bool]:
    """The longest chains first, but for some luck: what shortens the whole is kept and varied further."""
    chance = random.Random(0)
    number = len(instance.works)
    rank = [-tail for tail in instance.tail]
    reached = dispatch(instance, rank)
    for trial in range(min(_MOST_TRIALS, _EVENTS // number)):
        if min(best.makespan, reached.makespan) <= enough:
            break
        spread = (0.3, 0.1, 0.03)[trial % 3]
        tried = [value * (1 + spread * (chance.random() - 0.5)) for value in rank]
        found = dispatch(instance, tried)
        if found.makespan <= reached.makespan:
            rank, reached = tried, found
    best = _shorter(best, reached)
    return best, best.makespan <= enough

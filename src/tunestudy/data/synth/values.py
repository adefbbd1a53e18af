"""Numbers for charts: far enough apart to be told apart by eye, so that no question has two answers."""

import random
from dataclasses import dataclass
from itertools import pairwise

PIE_MOST = 6
PIE_SMALLEST, PIE_GAP = 8, 3
"""Percent: the smallest slice, and the least difference of two."""

MOST_HEADROOM = 1.25


@dataclass(frozen=True, slots=True)
class Series:
    """One value per label, and an axis from 0 to `top` with a grid line each `step`."""

    values: tuple[int, ...]
    top: int
    step: int

    @property
    def gap(self) -> int:
        """The least difference of two values."""
        ordered = sorted(self.values)
        return min(b - a for a, b in pairwise(ordered))


def printed_series(rng: random.Random, count: int, digits: int) -> Series:
    """Values of at most `digits` digits, any two at least 0.875 ÷ (2·count + 3) of the highest apart.

    The axis ends at the highest value or up to a quarter above it, so that the top of the image does not tell which
    one that is.
    """
    slots = 2 * count + 1
    largest_unit = (10**digits - 1) // (slots + 2)
    unit = rng.randint(max(3, largest_unit // 3), largest_unit)
    values = tuple(slot * unit + rng.randint(0, unit // 8) for slot in rng.sample(range(2, slots + 2), count))
    top = round(max(values) * rng.uniform(1, MOST_HEADROOM))
    return Series(values, top, _round_step(top / 6))


def gridded_series(rng: random.Random, count: int) -> Series:
    """Values that lie on grid lines, each on its own."""
    step = rng.choice((5, 10, 20, 25, 50))
    values = tuple(slot * step for slot in rng.sample(range(1, count + 3), count))
    return Series(values, (count + 2) * step, step)


def percentages(rng: random.Random, count: int) -> Series:
    """Whole percentages that add up to 100, none below 8, any two at least 3 apart.

    Begins with the closest such ladder and raises its upper rungs together, which keeps every gap.
    """
    assert 2 <= count <= PIE_MOST
    ladder = [PIE_SMALLEST + PIE_GAP * rung for rung in range(count)]
    left = 100 - sum(ladder)
    while left:
        raised = rng.randint(1, min(count, left))
        for rung in range(count - raised, count):
            ladder[rung] += 1
        left -= raised
    rng.shuffle(ladder)
    return Series(tuple(ladder), 100, 25)


def _round_step(about: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, … that is at least `about`."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= about:
                return factor * step
        step *= 10

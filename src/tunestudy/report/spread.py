"""A quantity over seeds: its mean, and how far the seeds reach."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """None: not known at any seed."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int

    def told(self, words: Callable[[float | None], str]) -> str:
        """The mean in words."""
        return words(self.mean)

    def reach(self, words: Callable[[float | None], str]) -> str:
        """`0.41 to 0.47`; empty where all seeds say the same, as far as words tell."""
        low, high = words(self.low), words(self.high)
        return "" if self.seeds < 2 or low == high else f"{low} to {high}"

    def whole(self, words: Callable[[float | None], str]) -> str:
        """Mean, and the reach in brackets where there is one."""
        reach = self.reach(words)
        return self.told(words) + (f" ({reach})" if reach else "")


def spread(values: Iterable[float | None]) -> Spread:
    """Of the values that are there."""
    known = [value for value in values if value is not None and value == value]
    if not known:
        return Spread(mean=None, low=None, high=None, seeds=0)
    return Spread(mean=sum(known) / len(known), low=min(known), high=max(known), seeds=len(known))

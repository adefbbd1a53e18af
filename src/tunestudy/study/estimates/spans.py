"""Amounts that are not known exactly: at least, as expected, at most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """low ≤ expected ≤ high."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Span":
        return cls(value, value, value)

    @classmethod
    def between(cls, stated: tuple[float, float]) -> "Span":
        """Of what a person stated; the middle is expected."""
        return cls(stated[0], (stated[0] + stated[1]) / 2, stated[1])

    @classmethod
    def of_values(cls, values: Sequence[float]) -> "Span":
        """The lowest, the mean and the highest of some that were seen."""
        return cls(min(values), sum(values) / len(values), max(values))

    def __add__(self, other: "Span") -> "Span":
        return Span(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> "Span":
        return Span(self.low * factor, self.expected * factor, self.high * factor)

    def meets(self, stated: tuple[float, float], *, slack: float) -> bool:
        """Whether it overlaps with what a person stated, each end moved apart by a share."""
        return self.low * (1 - slack) <= stated[1] and stated[0] <= self.high * (1 + slack)

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in vars(self).items()}


NOTHING = Span(0.0, 0.0, 0.0)


def total(spans: Iterable[Span | None]) -> Span | None:
    """The sum; None when a part is unknown."""
    found = NOTHING
    for span in spans:
        if span is None:
            return None
        found = found + span
    return found

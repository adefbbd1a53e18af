"""Share of right rows."""

from collections.abc import Sequence


def accuracy(correct: Sequence[bool]) -> float:
    """Mean of `correct`, in 0…1; there must be at least one row."""
    assert correct, "a benchmark without rows is refused before it is scored"
    return sum(correct) / len(correct)

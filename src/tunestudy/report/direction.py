"""Which way a metric is better: as the benchmark told it, else by the words of its name."""

import re
from collections.abc import Mapping
from typing import Literal

Direction = Literal["higher", "lower", "neither"]

_LOWER = re.compile(
    r"(?<![a-z])(loss|losses|logloss|perplexity|errors?|wer|cer|ter|nll|bits_per_byte|brier|mae|mse|rmse)(?![a-z])"
)
"""Whole words: `answer` has no `wer` in it."""
_NEITHER = re.compile(r"(?<![a-z])(bias|stereotypes?|likelihood_diff)(?![a-z])")
"""Their best value lies between the ends, whatever a task tells of them: no bias is 0 or a half, not the least."""


def direction_of(metric: str, told: Mapping[str, bool | None]) -> Direction:
    """`told`: by metric, whether higher is better; None where its parts disagree.

    Of the name counts what is left without the task before it and the way or filter in brackets behind it.
    """
    bare = metric.lower().partition(" (")[0].rpartition("/")[2]
    if _NEITHER.search(bare):
        return "neither"
    if metric in told:
        known: dict[bool | None, Direction] = {True: "higher", False: "lower", None: "neither"}
        return known[told[metric]]
    return "lower" if _LOWER.search(bare) else "higher"

"""Exact match of the text with any right answer.

- `official`: case, white space and Unicode form do not count.
- `strict`: case counts too.
"""

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import evened, folded
from tunestudy.config.benchmark import Compat

NAME = "exact_match"
WAYS: tuple[Compat, ...] = ("official", "strict")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    read = folded if way == "official" else evened
    right = read(prediction) in {read(answer) for answer in target.answers}
    return Verdict(float(right), evened(prediction) or None)

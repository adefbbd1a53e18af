"""The choice that the model finds most probable after the prompt; nothing is generated."""

from collections.abc import Sequence

from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Row, Scored
from tunestudy.config.benchmark import MultipleChoice
from tunestudy.config.errors import StudyError, at

VERSION = 1


def score(scorer: Scorer, rows: Sequence[Row], benchmark: MultipleChoice) -> list[Scored]:
    """Sum of log-probabilities of each choice's tokens, divided by their number when `normalise: tokens`."""
    asked = [(row, choice) for row in rows for choice in choices_of(row, benchmark)]
    sums = scorer.log_probabilities([(row.question, choice) for row, choice in asked])
    best: dict[str, tuple[float, str]] = {}
    for (row, choice), (total, num_tokens) in zip(asked, sums, strict=True):
        value = total / num_tokens if benchmark.normalise == "tokens" else total
        if row.id not in best or value > best[row.id][0]:
            best[row.id] = (value, choice)
    return [Scored(row.id, best[row.id][1], row.reference, best[row.id][1] == row.reference) for row in rows]


def choices_of(row: Row, benchmark: MultipleChoice) -> tuple[str, ...]:
    """The benchmark's choices or the row's own; the reference must be among them."""
    choices = benchmark.choices or row.choices
    if row.reference not in choices:
        raise StudyError(
            at("benchmarks"),
            f"row {row.id}: the reference {row.reference!r} is none of its choices {list(choices)}; "
            "give `choices:` in the benchmark, or a `choices` column in the data",
        )
    return choices

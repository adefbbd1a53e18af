"""The choice that the model finds most probable after the prompt; nothing is generated."""

from collections.abc import Sequence

from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Row, Scored, answered
from tunestudy.config.benchmark import MultipleChoice
from tunestudy.config.errors import StudyError, at

VERSION = MultipleChoice.version


def score(scorer: Scorer, rows: Sequence[Row], benchmark: MultipleChoice) -> list[Scored]:
    """Sum of log-probabilities of each choice's tokens, divided by their number when `normalise: tokens`."""
    asked = {row.id: choices_of(row, benchmark) for row in rows if not row.problem}
    for row_id, choices in asked.items():
        if nothing := [choice for choice in choices if not scorer.ids_of(choice)]:
            message = f"row {row_id}: the choice {nothing[0]!r} has no tokens, so every answer would begin with it"
            raise StudyError(at("benchmarks"), message)
    sums = scorer.option_log_probabilities([(row.question, asked[row.id]) for row in rows if row.id in asked])
    chosen: dict[str, str] = {}
    for (row_id, choices), values in zip(asked.items(), sums, strict=True):
        if benchmark.normalise == "tokens":
            values = [value / len(scorer.ids_of(choice)) for value, choice in zip(values, choices, strict=True)]
        chosen[row_id] = choices[values.index(max(values))]
    return [
        answered(row, chosen.get(row.id, ""), correct=row.id in chosen and chosen[row.id] == row.reference)
        for row in rows
    ]


def choices_of(row: Row, benchmark: MultipleChoice) -> tuple[str, ...]:
    """The benchmark's choices or the row's own; the reference must be among them."""
    choices = benchmark.choices or row.choices
    if "" in choices:
        raise StudyError(at("benchmarks"), f"row {row.id}: an empty choice, which every answer would begin with")
    if row.reference not in choices:
        raise StudyError(
            at("benchmarks"),
            f"row {row.id}: the reference {row.reference!r} is none of its choices {list(choices)}; "
            "give `choices:` in the benchmark, or a `choices` column in the data",
        )
    return choices

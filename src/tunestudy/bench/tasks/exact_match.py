"""Greedy generation, compared with the reference after white space and case are evened out."""

from collections.abc import Sequence

from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Row, Scored
from tunestudy.config.benchmark import ExactMatch

VERSION = 1


def score(scorer: Scorer, rows: Sequence[Row], benchmark: ExactMatch) -> list[Scored]:
    """Generate at most `max_new_tokens` per row and compare."""
    texts = scorer.generate([row.question for row in rows], max_new_tokens=benchmark.max_new_tokens)
    return [
        Scored(row.id, text, row.reference, evened(answer_in(text, benchmark)) == evened(row.reference))
        for row, text in zip(rows, texts, strict=True)
    ]


def answer_in(text: str, benchmark: ExactMatch) -> str:
    """The part of a generated text that is compared; all of it where the mark does not occur."""
    return text if benchmark.answer_after is None else text.rpartition(benchmark.answer_after)[2]


def evened(text: str) -> str:
    """Lower case, with runs of white space as one space and none at the ends."""
    return " ".join(text.casefold().split())

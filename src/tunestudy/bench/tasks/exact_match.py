"""Greedy generation, compared with the reference after white space and case are evened out."""

from collections.abc import Sequence

from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Row, Scored, answered
from tunestudy.config.benchmark import ExactMatch

VERSION = ExactMatch.version


def score(scorer: Scorer, rows: Sequence[Row], benchmark: ExactMatch) -> list[Scored]:
    """Generate at most `max_new_tokens` per row and compare."""
    able = [row for row in rows if not row.problem]
    texts = scorer.generate([row.question for row in able], max_new_tokens=benchmark.max_new_tokens)
    said = {row.id: text for row, text in zip(able, texts, strict=True)}
    return [
        answered(row, text, correct=evened(answer_in(text, benchmark)) == evened(row.reference))
        if (text := said.get(row.id)) is not None
        else answered(row, "", correct=False)
        for row in rows
    ]


def answer_in(text: str, benchmark: ExactMatch) -> str:
    """The part of a generated text that is compared; all of it where the mark does not occur."""
    return text if benchmark.answer_after is None else text.rpartition(benchmark.answer_after)[2]


def evened(text: str) -> str:
    """Lower case, with runs of white space as one space and none at the ends."""
    return " ".join(text.casefold().split())

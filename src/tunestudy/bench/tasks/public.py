"""Public benchmarks: the most probable letter, or what the model writes, judged by the benchmark's metric."""

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Protocol

from tunestudy.bench.judge import Judged, judged
from tunestudy.bench.metrics import Target, Verdict, metric
from tunestudy.bench.public import by_letter, read_public
from tunestudy.bench.tasks import Question, Row, Scored, answered
from tunestudy.config.benchmark import PublicBenchmark

VERSION = PublicBenchmark.version
read_rows = read_public


class Answering(Protocol):
    """What of a `Scorer` is needed here."""

    def generate(self, questions: Sequence[Question], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, each cut before the first of `stop`."""
        ...

    def option_log_probabilities(self, asked: Sequence[tuple[Question, Sequence[str]]]) -> list[list[float]]:
        """The sum of the log-probabilities of each option's tokens after the prompt."""
        ...


def score(answering: Answering, rows: Sequence[Row], benchmark: PublicBenchmark) -> list[Scored]:
    """Ask every row that can be asked; one with a problem is wrong, whatever the model would have said."""
    asked = [row for row in rows if not row.problem]
    predictions = _predictions(answering, asked, benchmark)
    if benchmark.judge is not None and not by_letter(benchmark):
        verdicts_of = judged(asked, predictions, benchmark.judge, benchmark.definition, benchmark.compat)
        scored = [_judged(*one) for one in zip(asked, predictions, verdicts_of, strict=True)]
    else:
        scored = [_scored(row, text, benchmark) for row, text in zip(asked, predictions, strict=True)]
    said = {one.id: one for one in scored}
    return [said.get(row.id) or replace(answered(row, "", correct=False), score=0.0) for row in rows]


def _predictions(answering: Answering, rows: Sequence[Row], benchmark: PublicBenchmark) -> list[str]:
    """A letter, or a text, for every row."""
    if by_letter(benchmark):
        options = [tuple(ascii_uppercase[: len(row.choices)]) for row in rows]
        asked = [(row.question, letters) for row, letters in zip(rows, options, strict=True)]
        found = answering.option_log_probabilities(asked)
        return [
            letters[max(range(len(sums)), key=sums.__getitem__)] for letters, sums in zip(options, found, strict=True)
        ]
    definition = benchmark.definition
    most = benchmark.max_new_tokens or definition.max_new_tokens
    return answering.generate([row.question for row in rows], max_new_tokens=most, stop=definition.stop)


def _scored(row: Row, prediction: str, benchmark: PublicBenchmark) -> Scored:
    assert row.target is not None
    verdict, others = verdicts(prediction, row.target, benchmark)
    told = answered(row, prediction, correct=verdict.score >= 1)
    return replace(told, score=verdict.score, understood=verdict.understood, others=others)


def _judged(row: Row, prediction: str, verdict: Judged) -> Scored:
    told = answered(row, prediction, correct=verdict.score >= 1)
    return replace(
        told,
        score=verdict.score,
        understood=verdict.understood,
        problem=verdict.problem,
        judgement=verdict.judgement,
    )


def verdicts(prediction: str, target: Target, benchmark: PublicBenchmark) -> tuple[Verdict, dict[str, float]]:
    """What an answer is worth in the wanted way, and its score in those that differ."""
    if by_letter(benchmark):
        return Verdict(float(prediction == target.letter), prediction), {}
    computed = metric(benchmark.definition.metric)
    wanted = computed.verdict(prediction, target, benchmark.compat)
    scores = {way: computed.verdict(prediction, target, way).score for way in computed.WAYS if way != benchmark.compat}
    return wanted, {way: score for way, score in scores.items() if score != wanted.score}

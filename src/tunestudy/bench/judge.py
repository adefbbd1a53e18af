"""Answers judged by a language model behind an OpenAI-compatible URL.

A judged score is another metric than the rule-based one, with another name, so the two never stand in one column. What
cannot be judged (no connection, an error, a timeout, a reply that cannot be read) counts as wrong and says why.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from tunestudy.bench import tasks
from tunestudy.bench.judge_client import Client, NoReplyError
from tunestudy.bench.metrics import Target, metric
from tunestudy.bench.tasks import Row
from tunestudy.config.benchmark import Compat
from tunestudy.config.definition import Definition
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.judge import Judge, JudgePrompts

NAME = "judge_accuracy"
"""The metric's name in tables, whatever the rule-based one is called."""

UNJUDGED = f"{tasks.UNJUDGED}: "
"""How a row's `problem` begins that the judge said nothing usable about."""

FEW = 5
"""From so many rows on, a judge that answers nonsense about all of them is taken for a broken one."""


@dataclass(frozen=True)
class Judged:
    """What one answer is worth to a judge."""

    score: float
    """0…1."""
    understood: str | None = None
    """The answer that was taken from the text; None where none was found."""
    problem: str = ""
    """Why it could not be judged; the score is 0 then."""
    judgement: str = ""
    """The judge's replies as they came, one per line; empty where the metric's rules were enough."""


def judged(
    rows: Sequence[Row], predictions: Sequence[str], judge: Judge, definition: Definition, way: Compat = "official"
) -> list[Judged]:
    """What each prediction is worth, in the order of `rows`.

    way: how the metric compares what the judge has extracted. StudyError when the judge cannot be asked at all.
    """
    return asyncio.run(_judged(rows, predictions, judge, definition, way))


async def _judged(
    rows: Sequence[Row], predictions: Sequence[str], judge: Judge, definition: Definition, way: Compat
) -> list[Judged]:
    async with Client(judge) as client:
        bench = _Bench(client, judge.prompts, definition, way)
        asked = {row.id: bench.judge(row, text) for row, text in zip(rows, predictions, strict=True)}
        found = list(await asyncio.gather(*asked.values()))
    refuse_unjudged([one.problem for one in found], judge, even_few=not client.has_replied)
    return found


def refuse_unjudged(problems: Sequence[str], judge: Judge, *, even_few: bool = True) -> None:
    """StudyError if no row could be judged: a table must not show a judge's outage as a model's failure."""
    if problems and all(problem.startswith(UNJUDGED) for problem in problems) and (even_few or len(problems) >= FEW):
        first = problems[0].removeprefix(UNJUDGED)
        message = f"{judge.model} at {judge.endpoint} judged none of {len(problems)} answers; the first: {first}"
        raise StudyError(at("benchmarks.judge.url"), message, exit_code=Exit.JOBS_FAILED)


@dataclass(frozen=True)
class _Bench:
    """One benchmark's way of judging."""

    client: Client
    prompts: JudgePrompts
    definition: Definition
    way: Compat

    async def judge(self, row: Row, prediction: str) -> Judged:
        target = row.target or Target((row.reference,), row.choices)
        if self.prompts.only_unread:
            verdict = metric(self.definition.metric).verdict(prediction, target, self.way)
            if verdict.understood is not None:
                return Judged(verdict.score, verdict.understood)
        facts = {
            "question": row.asked,
            "options": list(zip(ascii_uppercase, target.choices, strict=False)),
            "answers": list(target.answers),
            "response": prediction,
        }
        replies: list[str] = []
        try:
            return await self._stages(facts, target, prediction, replies)
        except NoReplyError as error:
            return Judged(0.0, None, f"{UNJUDGED}{error}", "\n".join(replies))

    async def _stages(self, facts: dict[str, Any], target: Target, prediction: str, replies: list[str]) -> Judged:
        """Extraction, then scoring by the judge or by the metric's rules. Raises NoReplyError."""
        extracted: str | None = prediction
        if self.prompts.extract is not None:
            letters = ascii_uppercase[: len(target.choices)] if self.prompts.only_unread else ""
            told = await self.client.ask(rendered(self.prompts.extract, facts), lambda text: read_answer(text, letters))
            replies.append(told.text)
            extracted = told.value
        if extracted is None:
            return Judged(0.0, None, judgement="\n".join(replies))
        if self.prompts.score is None:
            verdict = metric(self.definition.metric).verdict(extracted, target, self.way)
            return Judged(verdict.score, verdict.understood, judgement="\n".join(replies))
        scored = await self.client.ask(rendered(self.prompts.score, {**facts, "extracted": extracted}), read_score)
        replies.append(scored.text)
        understood = None if self.prompts.extract is None else extracted
        return Judged(scored.value, understood, judgement="\n".join(replies))


def rendered(template: str, facts: dict[str, Any]) -> str:
    """A prompt's text; a variable that is not there is an error of the template's."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(undefined=StrictUndefined).from_string(template).render(facts).strip()


def read_answer(text: str, letters: str = "") -> str | None:
    """The `answer` of a judge's reply; None where it says that there is none. ValueError for anything else.

    letters: the only answers that there are.
    """
    value = _last_object(text, "answer")
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"no answer: {text}")
    if value is None or not (answer := str(value).strip()):
        return None
    if letters:
        answer = answer.strip("(). ").upper()
        if len(answer) != 1 or answer not in letters:
            raise ValueError(f"no letter of an option: {text}")
    return answer


def read_score(text: str) -> float:
    """The `score` of a judge's reply: 0 or 1. ValueError for anything else."""
    value = _last_object(text, "score")
    if value in (0, 1, "0", "1"):
        return float(value)
    raise ValueError(f"no score: {text}")


def _last_object(text: str, key: str) -> Any:
    """The value under `key` in the last JSON object of a text that has it: judges think aloud, and fence their JSON."""
    decoder = json.JSONDecoder()
    start = text.rfind("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except ValueError:
            value = None
        if isinstance(value, dict) and key in value:
            return value[key]
        start = text.rfind("{", 0, start)
    raise ValueError(f"no JSON with {key!r}: {text}")

"""Questions and statements about a table, and their answers worked out from its numbers."""

from dataclasses import dataclass
from typing import Any

from tunestudy.data.synth.korean import Word
from tunestudy.data.synth.sample import TRUE_FALSE, Asked, Language, Wanted, near_counts, near_numbers, yes_or_no
from tunestudy.data.synth.topics import TableTopic, said

LARGEST_SUM = 6
"""Rows above which sums over a column become a test of arithmetic alone: only some rows are added then."""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of numbers; within a column no number occurs twice."""

    topic: TableTopic
    names: tuple[str, ...]
    heads: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]


PHRASES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "lookup": (
            "What is the value for {name} under {head}?",
            "What number does the table give for {name} under {head}?",
        ),
        "highest": ("Which {noun} has the highest number under {head}?", "Which {noun} comes first by {head}?"),
        "lowest": ("Which {noun} has the lowest number under {head}?", "Which {noun} comes last by {head}?"),
        "count": ("How many {nouns} have more than {t} under {head}?",),
        "sum": ("What is the sum of {head} for {a} and {b}?", "How much is {head} for {a} and {b} together?"),
        "total": ("What is the sum of all numbers under {head}?", "What is the total of the {head} column?"),
    },
    "ko": {
        "lookup": ("{name}의 {head} 값은 얼마입니까?", "표에서 {name}의 {head} 칸에 적힌 수는 얼마입니까?"),
        "highest": ("{head} 값이 가장 큰 {noun:은} {which}?",),
        "lowest": ("{head} 값이 가장 작은 {noun:은} {which}?",),
        "count": ("{head} 값이 {t}보다 큰 {noun:은} 모두 몇 {counter}입니까?",),
        "sum": ("{a:과} {b}의 {head} 값을 더하면 얼마입니까?",),
        "total": ("{head} 값을 모두 더하면 얼마입니까?",),
    },
}
CLAIMS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "lookup": ("The value for {name} under {head} is {v}.", "Under {head}, the table gives {v} for {name}."),
        "comparison": ("Under {head}, the number for {a} is higher than the number for {b}.",),
        "highest": ("The highest number under {head} is that for {name}.",),
        "count": ("The number of {nouns} with more than {t} under {head} is {v}.",),
    },
    "ko": {
        "lookup": ("{name}의 {head} 값은 {v}이다.",),
        "comparison": ("{a}의 {head} 값은 {b}의 값보다 크다.",),
        "highest": ("{head} 값이 가장 큰 {noun:은} {name}이다.",),
        "count": ("{head} 값이 {t}보다 큰 {noun:은} 모두 {v}{counter}이다.",),
    },
}


def ask(wanted: Wanted, table: Table) -> Asked:
    """A question of the wanted task about one column."""
    column = wanted.rng.randrange(len(table.heads))
    return TASKS[wanted.task](wanted, table, column)


def _lookup(wanted: Wanted, table: Table, column: int) -> Asked:
    row = wanted.rng.randrange(len(table.names))
    facts = {"column": table.heads[column], "row": table.names[row]}
    question = _worded(wanted, table, PHRASES, "lookup", column, name=table.names[row])
    return _number(wanted, question, table.columns[column][row], facts, near=table.columns[column])


def _superlative(wanted: Wanted, table: Table, column: int) -> Asked:
    which = wanted.rng.choice(("highest", "lowest"))
    numbers = table.columns[column]
    row = numbers.index(max(numbers) if which == "highest" else min(numbers))
    question = _worded(wanted, table, PHRASES, which, column)
    others = [name for name in table.names if name != table.names[row]]
    wanted.rng.shuffle(others)
    strangers = [name for name in table.topic.names(wanted.language) if name not in table.names]
    wanted.rng.shuffle(strangers)
    facts = {"column": table.heads[column], "which": which}
    return Asked(question, table.names[row], "text", facts, (*others, *strangers))


def _count(wanted: Wanted, table: Table, column: int) -> Asked:
    threshold, above = _threshold(wanted, table.columns[column])
    question = _worded(wanted, table, PHRASES, "count", column, t=str(threshold))
    facts = {"column": table.heads[column], "threshold": threshold}
    return Asked(question, str(above), "number", facts, near_counts(above, len(table.names), wanted))


def _sum(wanted: Wanted, table: Table, column: int) -> Asked:
    numbers = table.columns[column]
    facts: dict[str, Any] = {"column": table.heads[column]}
    if len(numbers) <= LARGEST_SUM and wanted.rng.random() < 0.5:
        question = _worded(wanted, table, PHRASES, "total", column)
        return _number(wanted, question, sum(numbers), {**facts, "rows": list(table.names)})
    first, second = wanted.rng.sample(range(len(numbers)), 2)
    names = [table.names[first], table.names[second]]
    question = _worded(wanted, table, PHRASES, "sum", column, a=names[0], b=names[1])
    return _number(wanted, question, numbers[first] + numbers[second], {**facts, "rows": names})


def _statement(wanted: Wanted, table: Table, column: int) -> Asked:
    """Whether it holds is drawn first; what is said comes after."""
    rng, numbers = wanted.rng, table.columns[column]
    holds = rng.random() < 0.5
    claim = rng.choice(tuple(CLAIMS["en"]))
    facts: dict[str, Any] = {"column": table.heads[column], "claim": claim}
    words: dict[str, str] = {}
    row, other = rng.sample(range(len(numbers)), 2)
    if claim == "lookup":
        said_value = numbers[row] if holds else numbers[other]
        words = {"name": table.names[row], "v": str(said_value)}
    elif claim == "comparison":
        first, second = (row, other) if (numbers[row] > numbers[other]) == holds else (other, row)
        words = {"a": table.names[first], "b": table.names[second]}
    elif claim == "highest":
        best = numbers.index(max(numbers))
        row = best if holds else rng.choice([place for place in range(len(numbers)) if place != best])
        words = {"name": table.names[row]}
    else:
        threshold, above = _threshold(wanted, numbers)
        wrong = rng.choice([number for number in range(len(numbers) + 1) if number != above])
        words = {"t": str(threshold), "v": str(above if holds else wrong)}
    statement = _worded(wanted, table, CLAIMS, claim, column, **words)
    return yes_or_no(statement, holds, {**facts, **words}, wanted.language, TRUE_FALSE)


TASKS = {"lookup": _lookup, "superlative": _superlative, "count": _count, "sum": _sum, "statement": _statement}


def _threshold(wanted: Wanted, numbers: tuple[int, ...]) -> tuple[int, int]:
    """A number and how many are above it: none of them equals it, and each count is about as likely as another."""
    ordered = sorted(numbers)
    above = wanted.rng.randint(0, len(ordered))
    start = len(ordered) - above
    low = ordered[start - 1] if start else max(-1, ordered[0] - 4)
    high = ordered[start] if above else ordered[-1] + 4
    between = range(max(0, low + 1), high)
    if not between:
        return _threshold(wanted, numbers)
    return wanted.rng.choice(between), above


def _number(wanted: Wanted, question: str, value: int, facts: dict[str, Any], near: tuple[int, ...] = ()) -> Asked:
    wrong = near_numbers(value, wanted.rng, near=near)
    return Asked(question, str(value), "number", facts, tuple(map(str, wrong)))


def _worded(
    wanted: Wanted,
    table: Table,
    phrases: dict[Language, dict[str, tuple[str, ...]]],
    phrase: str,
    column: int,
    **words: str,
) -> str:
    language, topic = wanted.language, table.topic
    fixed = {"head": table.heads[column], "noun": said(topic.noun, language), "nouns": topic.plural}
    given = {**fixed, "counter": topic.counter, "which": topic.korean_which, **words}
    template = wanted.rng.choice(phrases[language][phrase])
    return template.format(**{name: Word(word) for name, word in given.items()})

"""Questions about charts, and their answers worked out from the values."""

from dataclasses import dataclass
from typing import Any

from tunestudy.config.synth import ChartType
from tunestudy.data.synth.korean import Word
from tunestudy.data.synth.sample import YES_NO, Asked, Language, Wanted, near_counts, near_numbers, yes_or_no
from tunestudy.data.synth.topics import SHORT, SHORT_AWAY_FROM_CHOICES, TOPICS
from tunestudy.data.synth.values import Series


@dataclass(frozen=True, slots=True)
class Chart:
    """What is to be shown; `noun` says what a label is, empty for labels of one letter."""

    kind: ChartType
    labels: tuple[str, ...]
    series: Series
    noun: str
    korean_which: str = "무엇입니까"


PARTS: dict[Language, dict[ChartType, str]] = {
    "en": {"bar": "bar", "line": "point", "pie": "slice"},
    "ko": {"bar": "막대", "line": "점", "pie": "조각"},
}
HIGHEST: dict[Language, dict[str, dict[ChartType, tuple[str, ...]]]] = {
    "en": {
        "argmax": {
            "bar": ("Which {noun} has the highest value?", "Which {part} is the tallest?"),
            "line": ("Which {noun} has the highest value?", "Which {part} is the highest?"),
            "pie": ("Which {noun} has the largest share?", "Which {part} is the largest?"),
        },
        "argmin": {
            "bar": ("Which {noun} has the lowest value?", "Which {part} is the shortest?"),
            "line": ("Which {noun} has the lowest value?", "Which {part} is the lowest?"),
            "pie": ("Which {noun} has the smallest share?", "Which {part} is the smallest?"),
        },
    },
    "ko": {
        "argmax": {
            "bar": ("값이 가장 큰 {noun:은} {which}?", "가장 높은 {part:은} 무엇입니까?"),
            "line": ("값이 가장 큰 {noun:은} {which}?", "가장 높은 {part:은} 무엇입니까?"),
            "pie": ("비율이 가장 큰 {noun:은} {which}?", "가장 큰 {part:은} 무엇입니까?"),
        },
        "argmin": {
            "bar": ("값이 가장 작은 {noun:은} {which}?", "가장 낮은 {part:은} 무엇입니까?"),
            "line": ("값이 가장 작은 {noun:은} {which}?", "가장 낮은 {part:은} 무엇입니까?"),
            "pie": ("비율이 가장 작은 {noun:은} {which}?", "가장 작은 {part:은} 무엇입니까?"),
        },
    },
}
"""Each time a wording with the labels' noun and one with the name of the drawn part."""

PHRASES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "value": ("What is the value of {a}?", "What value does the chart show for {a}?"),
        "share": ("What percentage does {a} have?", "How many percent is {a}?"),
        "difference": ("By how much is {a} higher than {b}?", "What is the value of {a} minus the value of {b}?"),
        "share difference": ("By how many percentage points is {a} larger than {b}?",),
        "count": ("How many {parts} have a value above {t}?",),
        "share count": ("How many {parts} are larger than {t}%?",),
        "comparison": ("Is the value of {a} higher than the value of {b}?", "Is {a} higher than {b}?"),
        "share comparison": ("Is {a} larger than {b}?",),
    },
    "ko": {
        "value": ("{a}의 값은 얼마입니까?", "차트에서 {a:은} 얼마를 나타냅니까?"),
        "share": ("{a}의 비율은 몇 퍼센트입니까?", "{a:은} 몇 퍼센트를 차지합니까?"),
        "difference": ("{a}의 값은 {b}의 값보다 얼마나 더 큽니까?", "{a}의 값에서 {b}의 값을 빼면 얼마입니까?"),
        "share difference": ("{a}의 비율은 {b}의 비율보다 몇 퍼센트포인트 더 큽니까?",),
        "count": ("값이 {t}보다 큰 {part:은} 모두 몇 개입니까?",),
        "share count": ("{t}%보다 큰 {part:은} 모두 몇 개입니까?",),
        "comparison": ("{a}의 값이 {b}의 값보다 큽니까?", "{a:이} {b}보다 높습니까?"),
        "share comparison": ("{a:이} {b}보다 큽니까?",),
    },
}


def ask(wanted: Wanted, chart: Chart) -> Asked:
    """A question of the wanted task."""
    if wanted.task in ("argmax", "argmin"):
        return _highest(wanted, chart)
    if wanted.task == "count":
        return _count(wanted, chart)
    if wanted.task == "value":
        place = wanted.rng.randrange(len(chart.labels))
        value = chart.series.values[place]
        question = _worded(wanted, chart, "value", a=_spoken(wanted, chart, place))
        facts = {"label": chart.labels[place]}
        return _number(wanted, question, value, facts, near=chart.series.values)
    return _two(wanted, chart)


def _highest(wanted: Wanted, chart: Chart) -> Asked:
    values, labels = chart.series.values, chart.labels
    place = values.index(max(values) if wanted.task == "argmax" else min(values))
    wordings = HIGHEST[wanted.language][wanted.task][chart.kind]
    wording = wanted.rng.choice(wordings if chart.noun else wordings[1:])
    part = Word(PARTS[wanted.language][chart.kind])
    question = wording.format(noun=Word(chart.noun), part=part, which=chart.korean_which)
    others = [label for label in labels if label != labels[place]]
    wanted.rng.shuffle(others)
    strangers = [name for name in _pool(wanted, chart) if name not in labels]
    wanted.rng.shuffle(strangers)
    return Asked(question, labels[place], "text", {}, (*others, *strangers))


def _pool(wanted: Wanted, chart: Chart) -> list[str]:
    """Labels that could have stood in the chart."""
    pools = [list(SHORT[wanted.language]), list(SHORT_AWAY_FROM_CHOICES)]
    pools += [topic.names(wanted.language) for topic in TOPICS]
    return next(pool for pool in pools if set(chart.labels) <= set(pool))


def _count(wanted: Wanted, chart: Chart) -> Asked:
    """How many are above a threshold that lies clearly between two values; each number is as likely as another."""
    ordered = sorted(chart.series.values)
    above = wanted.rng.randint(0, len(ordered))
    below = len(ordered) - above
    low = ordered[below - 1] if below else ordered[0] - 2 * (chart.series.gap // 2)
    high = ordered[below] if above else ordered[-1] + 2 * (chart.series.gap // 2)
    threshold = (low + high) // 2
    part = PARTS[wanted.language][chart.kind]
    question = _worded(wanted, chart, "count", t=str(threshold), part=part, parts=f"{part}s")
    wrong = near_counts(above, len(ordered), wanted)
    return Asked(question, str(above), "number", {"threshold": threshold}, wrong)


def _two(wanted: Wanted, chart: Chart) -> Asked:
    """A difference, or a comparison whose answer is drawn before the labels are."""
    values, labels = chart.series.values, chart.labels
    first, second = wanted.rng.sample(range(len(labels)), 2)
    holds = wanted.task == "difference" or wanted.rng.random() < 0.5
    if (values[first] > values[second]) != holds:
        first, second = second, first
    question = _worded(wanted, chart, wanted.task, a=_spoken(wanted, chart, first), b=_spoken(wanted, chart, second))
    facts = {"first": labels[first], "second": labels[second]}
    if wanted.task == "comparison":
        return yes_or_no(question, holds, facts, wanted.language, YES_NO)
    return _number(wanted, question, values[first] - values[second], facts)


def _spoken(wanted: Wanted, chart: Chart, place: int) -> str:
    """A label within a sentence: single syllables are quoted, for most are words of their own."""
    label = chart.labels[place]
    return label if chart.noun or wanted.language == "en" else f"'{label}'"


def _number(wanted: Wanted, question: str, value: int, facts: dict[str, Any], near: tuple[int, ...] = ()) -> Asked:
    wrong = near_numbers(value, wanted.rng, near=near, least=1)
    return Asked(question, str(value), "number", facts, tuple(map(str, wrong)))


def _worded(wanted: Wanted, chart: Chart, phrase: str, **words: str) -> str:
    """One of the wordings; a pie is spoken of in shares."""
    phrases = PHRASES[wanted.language]
    key = {"value": "share"}.get(phrase, f"share {phrase}") if chart.kind == "pie" else phrase
    return wanted.rng.choice(phrases[key]).format(**{name: Word(word) for name, word in words.items()})

"""CharXiv by rules alone, where its authors have a judge compare the answers: another metric than theirs.

Source: Wang et al. 2024, arXiv:2406.18521; princeton-nlp/CharXiv, src/constants.py, whose rubrics these rules follow.
Numbers are equal in value (`1.5e3` is 1500, `10^-2` is 0.01), terms are equal without LaTeX's marks, brackets, case
and a prefix such as `(a)`, lists of labels in their order, layouts as `2 by 3`. Of an answer `Not Applicable` the text
must say so, or that there is none. What a judge would see as the same in other words (a trend, above all) is wrong.

- `official`: the answer is what the text declares, else all of it; of numbers, else the only one in it; of yes and no,
  the only one of the two.
- `strict`: the text is the answer and nothing else.

Facts: `qid` (1…19, the kind of descriptive question), or `reasoning_q_source` (1 and 2 a text, 3 and 4 a number).
"""

import re
from math import isfinite

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import bare, declared, evened, numbers
from tunestudy.bench.metrics.reading import number as plain_number
from tunestudy.config.benchmark import Compat

NAME = "rule_accuracy"
WAYS: tuple[Compat, ...] = ("official", "strict")
_QUANTITIES = {8, 9, 10, 12, 14, 15, 17, 19}
_LINES_CROSS, _LEGEND, _LAYOUT = 11, 13, 18
_NONE = re.compile(r"not applicable|n/?a\b|there (?:is|are) no\b|does not (?:have|contain)\b")
_POWER = re.compile(r"(?:(\S+?)\s*(?:×|x|\*|\\times|\\cdot)\s*)?(-?)10\s*\^\s*\{?\s*([+-]?\d+)\s*\}?", re.ASCII)
_GRID = re.compile(r"(\d+)\s*(?:by|x|×|\*)\s*(\d+)")
_PREFIX = re.compile(r"^\([a-z0-9]{1,3}\)\s+(?=\S)")
_MARKS = re.compile(r"[${}\s]|\\(?:text|mathrm|mathbf|mathit|rm|left|right|[,;! ])")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    said = evened(prediction) if way == "strict" else declared(prediction) or evened(prediction)
    right = any(_right(said, answer, _kind(target), way == "strict") for answer in target.answers)
    return Verdict(float(right), said or None)


def _kind(target: Target) -> str:
    qid, source = target.facts.get("qid"), target.facts.get("reasoning_q_source")
    if qid is None:
        return "number" if source is not None and int(source) in (3, 4) else "term"
    special = {_LINES_CROSS: "yes or no", _LEGEND: "list", _LAYOUT: "grid"}
    return "number" if int(qid) in _QUANTITIES else special.get(int(qid), "term")


def _right(said: str, answer: str, kind: str, strict: bool) -> bool:
    if bare(answer) == "not applicable":
        return bare(said) == "not applicable" if strict else _NONE.match(bare(said)) is not None
    if kind == "number":
        value, wanted = _value(said, only=not strict), _value(answer)
        return _equal(value, wanted)
    if kind == "yes or no":
        return _yes_or_no(said, strict) == bare(answer)
    if kind == "grid":
        grids = [_GRID.fullmatch(bare(text)) if strict else _GRID.search(bare(text)) for text in (said, answer)]
        return grids[0] is not None and grids[1] is not None and grids[0].groups() == grids[1].groups()
    if kind == "list":
        return [_term(item) for item in said.split(",")] == [_term(item) for item in answer.split(",")]
    return _term(said) == _term(answer) != "" or _equal(_value(said), _value(answer))


def _equal(value: float | None, wanted: float | None) -> bool:
    return value is not None and wanted is not None and abs(value - wanted) <= 1e-9 * max(abs(value), abs(wanted))


def _yes_or_no(text: str, strict: bool) -> str | None:
    if strict:
        return bare(text)
    words = {word for word in re.findall(r"[a-z]+", text.lower()) if word in ("yes", "no")}
    return words.pop() if len(words) == 1 else None


def _value(text: str, *, only: bool = False) -> float | None:
    """The number that a text is; with `only`, else the one number in it."""
    text = evened(text).strip("$ ").removesuffix(".").removesuffix("%").strip().replace("−", "-")
    value = plain_number(text)
    if value is not None:
        return value
    power = _POWER.fullmatch(text)
    if power:
        factor = plain_number(power[1]) if power[1] else 1.0
        return None if factor is None else _scaled(-factor if power[2] else factor, power[3])
    found = set(numbers(text)) if only else set()
    return found.pop() if len(found) == 1 else None


def _scaled(factor: float, exponent: str) -> float | None:
    """factor · 10^exponent; None for what is too large to hold."""
    try:
        value = factor * 10.0 ** float(exponent)
    except OverflowError:
        return None
    return value if isfinite(value) else None


def _term(text: str) -> str:
    text = _MARKS.sub("", _PREFIX.sub("", bare(text)))
    inner = text[1:-1]
    whole = text[:1] + text[-1:] in ("()", "[]") and not set(inner) & set("()[]")
    return inner if whole else text

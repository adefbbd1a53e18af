"""Denotation accuracy (WikiTableQuestions): the answer, a set of values, equals the right set.

Source: Pasupat & Liang 2015, arXiv:1508.00305; ppasupat/WikiTableQuestions, evaluator.py 1.0.2. A value is a number, a
date (`2010-05-xx`) or a string; two match if their normalised strings are equal, or they are equal numbers or dates.
All of `target.answers` together are the right set. A model writes its values with `|` between them; `||`, which
TableVQABench asks for, is the same.

- `official`: the evaluator. What it reads from the CoreNLP-tagged data is the fact `targetCanon`; without that, a right
  answer `1,000` is the number 1000, as CoreNLP has it. Of what a model writes, only what float() reads is a number;
  `1_000`, `nan` and `inf` are strings.
- `strict`: a model's `1,000` is a number as well.
"""

import re
import unicodedata
from dataclasses import dataclass

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import evened, number
from tunestudy.config.benchmark import Compat

NAME = "denotation_accuracy"
WAYS: tuple[Compat, ...] = ("official", "strict")
_QUOTES = str.maketrans(dict.fromkeys("‘’´`", "'") | dict.fromkeys("“”", '"') | dict.fromkeys("‐‑‒–—−", "-"))
_CITATION = re.compile(r"((?<!^)\[[^\]]*\]|\[\d+\]|[•♦†‡*#+])*$")
_DETAIL = re.compile(r"(?<!^)( \([^)]*\))*$")
_QUOTED = re.compile(r'^"([^"]*)"$')
_UNKNOWN = {"xx", "xxxx"}


@dataclass(frozen=True)
class Value:
    """One item of a denotation."""

    text: str
    """Normalised."""
    kind: float | tuple[int, int, int] | None = None
    """A number, a date (year, month, day; -1 for unknown), or None for a string."""

    def matches(self, other: "Value") -> bool:
        if self.text == other.text:
            return True
        if isinstance(self.kind, float) and isinstance(other.kind, float):
            return abs(self.kind - other.kind) < 1e-6
        return isinstance(self.kind, tuple) and self.kind == other.kind


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    items = [item for answer in target.answers for item in _items(answer)]
    canon = _canon(target.facts.get("targetCanon"))
    canon = canon if len(canon) == len(items) else items
    wanted = _as_set([_value(item, form, separators=True) for item, form in zip(items, canon, strict=True)])
    said = _as_set([_value(item, item, separators=way == "strict") for item in _items(prediction)])
    right = len(said) == len(wanted) > 0 and all(any(one.matches(other) for other in said) for one in wanted)
    return Verdict(float(right), " | ".join(item for item in map(evened, _items(prediction))).strip() or None)


def normalised(text: str) -> str:
    """A string as the evaluator compares it: no accents, citations, trailing details, outer quotes or last period."""
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    text = text.translate(_QUOTES)
    before = None
    while text != before:
        before = text
        text = _CITATION.sub("", text.strip())
        text = _DETAIL.sub("", text.strip())
        text = _QUOTED.sub(r"\1", text.strip())
    return " ".join(text.removesuffix(".").split()).lower()


def _items(text: str) -> list[str]:
    r"""Items of a line: `|` stands between them, `\p` is a bar inside one."""
    escaped = (item.replace(r"\n", "\n").replace(r"\p", "|") for item in text.replace("||", "|").split("|"))
    return [item.replace("\\\\", "\\").strip() for item in escaped]


def _canon(fact: object) -> list[str]:
    if isinstance(fact, str):
        return _items(fact)
    return [str(item) for item in fact] if isinstance(fact, list | tuple) else []


def _value(text: str, form: str, *, separators: bool) -> Value:
    amount = number(form) if separators or "," not in form else None
    if amount is not None:
        return Value(normalised(text), float(round(amount)) if abs(amount - round(amount)) < 1e-6 else amount)
    date = _date(form)
    if date is None:
        return Value(normalised(text))
    year, month, day = date
    return Value(normalised(text), float(year) if month == day == -1 else date)


def _date(text: str) -> tuple[int, int, int] | None:
    """`yyyy-mm-dd`, with `xx` for what is not known."""
    parts = text.lower().strip().split("-")
    if len(parts) != 3 or not all(part in _UNKNOWN or re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        return None
    year, month, day = (-1 if part in _UNKNOWN else int(part) for part in parts)
    valid = (month == -1 or 1 <= month <= 12) and (day == -1 or 1 <= day <= 31) and (year, month, day) != (-1, -1, -1)
    return (year, month, day) if valid else None


def _as_set(values: list[Value]) -> list[Value]:
    """Numbers and dates are the same by value, strings by their normalised form."""
    seen = {value.text if value.kind is None else (value.kind,): value for value in values}
    return list(seen.values())

"""Reading answers as a person does: one form of Unicode, single spaces, numbers with their separators."""

import math
import re
import unicodedata

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(rf"[+-]?(?:{_PLAIN})(?:[eE][+-]?\d+)?", re.ASCII)
_IN_TEXT = re.compile(rf"(?<![\w.])(?:(?<!-)[+-])?(?:{_PLAIN})(?:[eE][+-]?\d+)?(?![0-9_])", re.ASCII)
_DECLARED = re.compile(r"\b(?:answer|result)\b\s*(?:is|are|:|=)+|정답\s*[은는]?\s*:?|답\s*[은는:]", re.IGNORECASE)
_QUOTES = "\"'“”‘’`*"


def evened(text: str) -> str:
    """The same characters in one form: composed (NFC), runs of white space as one space, none at the ends.

    NFD and NFC are one text by the Unicode standard (annex 15), so no definition of a metric sets them apart.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def folded(text: str) -> str:
    """`evened`, in lower case."""
    return evened(text).lower()


def bare(text: str) -> str:
    """`folded`, without quotation marks and the like around it and without its last period."""
    return folded(text).strip(_QUOTES + " ").removesuffix(".").strip(_QUOTES + " ")


def number(text: str) -> float | None:
    """The value of a text that is a number and nothing else: `-3`, `1,000`, `.5`, `1.5e3`; None of any other.

    Separators must stand before each three digits; `1_000`, `nan` and `inf`, which Python reads, are no numbers.
    """
    text = text.strip().replace("−", "-")
    return _finite(text) if _NUMBER.fullmatch(text) else None


def numbers(text: str) -> list[float]:
    """Every number in a text, in order; a hyphen between two numbers is not a sign."""
    values = (_finite(found) for found in _IN_TEXT.findall(text.replace("−", "-")))
    return [value for value in values if value is not None]


def _finite(text: str) -> float | None:
    """A number too large to hold is none: it would equal every other such."""
    value = float(text.replace(",", ""))
    return value if math.isfinite(value) else None


def declared(text: str) -> str | None:
    """What a text gives as its final answer; None where it declares nothing.

    It stands in the last `\\boxed{…}`, or after the last `answer is`, `Answer:`, `정답:`, on that line.
    """
    boxed = _boxed(text)
    if boxed is not None:
        return boxed
    found = list(_DECLARED.finditer(text))
    if not found:
        return None
    line, *_ = text[found[-1].end() :].strip().split("\n")
    return evened(line.strip().removesuffix("입니다.").removesuffix("입니다")).strip(_QUOTES + " ") or None


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for end, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return evened(text[start:end]) or None
    return None


def distance(one: str, other: str) -> int:
    """Levenshtein's edit distance, in characters."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above = row
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (a != b)))
    return row[-1]

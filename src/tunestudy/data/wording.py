"""What a text says, as numbers that can be compared: sentences and runs of words, evened out.

Two texts are the same here whatever their white space, case, Unicode form and punctuation; numbers, names and signs
(`3-4`, `c++`) stay, so questions of one template about different things stay different.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tunestudy.data.example import Example
from tunestudy.data.images import IMAGE_MARK

RUN = 13
"""Words of a run. Source: Brown et al. 2020, Language Models are Few-Shot Learners, arXiv:2005.14165, appendix C, which
counts a text with any run of 13 words in common as seen; here all its runs must stand in one record."""

Prints = NDArray[np.uint64]

_EDGES = ".,;:!?\"'`()[]{}<>…·。、"
_SENTENCE_END = re.compile(r"(?<=[.?!:;。])\s+|(?<=。)")
_MARKS = re.compile(rf"{IMAGE_MARK}|<image>")
_ALIKE = str.maketrans(
    {**dict.fromkeys("‘’‚‛′", "'"), **dict.fromkeys("“”„‟″«»", '"'), **dict.fromkeys("‐‑‒–—―−", "-")}
)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def evened(text: str) -> str:
    """Lower case in Unicode's form NFKC, without marks of images and characters that show nothing; lines stay."""
    plain = unicodedata.normalize("NFKC", _MARKS.sub(" ", text)).casefold()
    shown = "".join(c for c in unicodedata.normalize("NFKC", plain) if unicodedata.category(c) != "Cf")
    return shown.translate(_ALIKE)


def words(text: str) -> list[str]:
    """The words of an evened text, without punctuation at their ends; a sign that stands alone is a word."""
    return [word for part in text.split() if (word := part.strip(_EDGES))]


def sentences(text: str, *, by_line: bool) -> list[str]:
    """An evened text cut where sentences end, and with `by_line` at line breaks too; none is empty."""
    lines = text.splitlines() if by_line else [" ".join(text.split())]
    parts = [part for line in lines for part in _SENTENCE_END.split(line)]
    return [said for part in parts if (said := " ".join(words(part)))]


@lru_cache(maxsize=65_536)
def print_of(text: str) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def sentence_prints(said: Iterable[str]) -> list[int]:
    """One number per sentence; a sentence that comes again is another one: its second time."""
    times: Counter[str] = Counter()
    found = []
    for sentence in said:
        times[sentence] += 1
        found.append(print_of(sentence if times[sentence] == 1 else f"{sentence}\0{times[sentence]}"))
    return found


def run_prints(said: Sequence[str]) -> Prints:
    """(W - 12,) one number per 13 words in a row; empty for fewer words."""
    if len(said) < RUN:
        return np.empty(0, np.uint64)
    each = np.array([print_of(word) for word in said], np.uint64)
    total = np.zeros(len(said) - RUN + 1, np.uint64)
    for place in range(RUN):  # a polynomial modulo 2⁶⁴
        total = total * _MULTIPLIER + each[place : place + len(total)]
    return total


def question_of(example: Example) -> str:
    """All that a record asks: what stands before its last answer, without system prompts."""
    if example.messages:
        answers = [i for i, message in enumerate(example.messages) if message["role"] == "assistant"]
        asked = example.messages[: answers[-1] if answers else None]
        text = "\n".join(message["content"] for message in asked if message["role"] != "system")
    else:
        text = example.prompt if example.prompt is not None else example.text or ""
    return _MARKS.sub(" ", text).strip()

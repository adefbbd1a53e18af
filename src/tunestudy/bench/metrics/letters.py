"""Which option a text chooses: by its letter, or by its wording. Where it does not say, None: nothing is guessed."""

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from tunestudy.bench.metrics import Target
from tunestudy.bench.metrics.reading import bare, folded

_AROUND = " .()[],:;!*#{}\"'“”‘’`<>"
_HANGUL_END = r"(?:\s*번)?\s*(?:입니다|이다|이에요|예요|임)"
_LEAD = (
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)\s*(?:is|:|=)+"
    r"|정답\s*[은는]?\s*:?|답\s*[은는:]+"
)
# Latin letters and digits join a letter to a word; Hangul and Chinese characters do not.
_JOINING = r"[^\W\u3040-\u9fff\uac00-\ud7a3]"
_FREE_BEFORE = rf"(?<!{_JOINING})(?<!['’/&-])"
_FREE_AFTER = rf"(?!{_JOINING}|['’/&-])"
_LETTER = rf"[\s(\[*\"'“‘`]*([A-Za-z]){_FREE_AFTER}"
_DECLARED = re.compile(rf"(?:{_LEAD}|\banswer\b){_LETTER}", re.IGNORECASE)
_ALONE = re.compile(rf"(?:{_LEAD})?{_LETTER}[{re.escape(_AROUND)}]*(?:{_HANGUL_END})?[{re.escape(_AROUND)}]*", re.I)
_STANDING = re.compile(rf"{_FREE_BEFORE}([A-Z]){_FREE_AFTER}")
_LEADING = re.compile(r"[(\[*]*([A-Za-z])[)\].:,*\s]+(.+)", re.DOTALL)
# What may follow a letter that is meant as one; before any other small word, A is an article and I a pronoun.
_ARTICLE = re.compile(rf"(?<!{_JOINING})[AI]\s+(?!(?:is|was|because|since|as|and|or|but|would|seems)\b)[a-z]")
_ANOTHER = re.compile(rf"[)\].\s]*(?:,?\s*\b(?:and|or)\b|[,/&와과및]|또는)\s*[(\[]?([A-Z]){_FREE_AFTER}")
_ENDS = re.compile(rf"\s*(?:$|[\n).\],;:!*]|{_HANGUL_END})")
_NEAR_END = 4


def right_letter(target: Target) -> str:
    """The right option's letter, in upper case; found by its text where none is given, else ``."""
    if target.letter:
        return target.letter.strip(_AROUND).upper()
    places = [i for i, text in enumerate(target.choices) if text in target.answers]
    if places:
        return ascii_uppercase[places[0]]
    given = [answer.strip(_AROUND).upper() for answer in target.answers]
    return given[0] if given and len(given[0]) == 1 else ""


def chosen(text: str, choices: Sequence[str], *, strict: bool = False) -> str | None:
    """The letter of the option that a text chooses, of A, B, … for as many as there are `choices`.

    In this order: the letter alone or behind `Answer:`, `정답:` and the like; exactly one option's wording; a letter
    with its own option's wording. `strict` ends here. Then: the letter that is declared somewhere (`the answer is (B),
    as …`); the one letter that stands in the text by itself, first, marked (`B.`, `(B)`) or among the last four words;
    the one option whose wording stands in the text, if that is not more than twice as long as all options together.
    Two candidates are none.
    """
    letters = ascii_uppercase[: len(choices)]
    plain = unicodedata.normalize("NFKC", text).strip()
    for found in (_alone(plain, letters), _worded(text, choices), _letter_and_wording(plain, choices)):
        if found:
            return found
    if strict:
        return None
    declared = _declared(plain, letters)
    if declared:
        return declared.pop() if len(declared) == 1 else None
    return _standing(plain, letters) or _contained(text, choices)


def _alone(text: str, letters: str) -> str | None:
    found = _ALONE.fullmatch(text)
    return found[1].upper() if found and found[1].upper() in letters else None


def _worded(text: str, choices: Sequence[str]) -> str | None:
    return _only([bare(text) == bare(choice) != "" for choice in choices])


def _letter_and_wording(text: str, choices: Sequence[str]) -> str | None:
    found = _LEADING.fullmatch(text)
    if not found:
        return None
    place = ascii_uppercase.find(found[1].upper())
    return found[1].upper() if place < len(choices) and bare(found[2]) == bare(choices[place]) else None


def _declared(text: str, letters: str) -> set[str]:
    """Letters that are said to be the answer; a small one, or an A before a word, only where a phrase ends."""
    said = set()
    for found in _DECLARED.finditer(text):
        meant = found[1].isupper() and not _ARTICLE.match(text, found.start(1))
        if found[1].upper() in letters and (meant or _ENDS.match(text, found.end(1))):
            another = _ANOTHER.match(text, found.end(1))
            said |= {found[1].upper()} | ({another[1]} if another else set())
    return said


def _standing(text: str, letters: str) -> str | None:
    articles = {found.start() for found in _ARTICLE.finditer(text)}
    found = [match for match in _STANDING.finditer(text) if match[1] in letters and match.start() not in articles]
    if len({match[1] for match in found}) != 1:
        return None
    last = found[-1]
    first = text[: found[0].start()].strip(_AROUND) == ""
    marked = any(re.match(rf"[).:,\]*]|{_HANGUL_END}", text[match.end() :]) for match in found)
    near = len(re.sub(r"[^\w\s]", " ", text[last.end() :]).split()) < _NEAR_END
    return last[1] if first or marked or near else None


def _contained(text: str, choices: Sequence[str]) -> str | None:
    if len(text) > 2 * sum(map(len, choices)):
        return None
    whole = folded(text)
    wordings = [folded(choice) for choice in choices]
    return _only([_stands(wording, whole) for wording in wordings])


def _stands(wording: str, text: str) -> bool:
    """Not as a part of a longer Latin word or number; Hangul may carry a particle."""
    return wording != "" and re.search(rf"(?<![0-9a-z]){re.escape(wording)}(?![0-9a-z])", text) is not None


def _only(held: Sequence[bool]) -> str | None:
    return ascii_uppercase[held.index(True)] if sum(held) == 1 else None

"""MathVerse by rules alone, where its authors have a judge take the answer and compare it: another metric than theirs.

Source: Zhang et al. 2024, arXiv:2403.14624; ZrrSkywalker/MathVerse, evaluation/{extract_answer_s1,score_answer_s2}.py.

- `official`: the option as in `choice`; of a free answer what the text declares (`\\boxed{}`, `answer is`), else all of
  it, compared as numbers or, without LaTeX's marks, spaces and units' periods, as text.
- `strict`: the authors' quick match: the text, evened in white space and Unicode form, is the answer.

Facts: `question_type` (multi-choice or free-form) and, to know options by their text, `question_for_eval`, where they
stand as lines `A:…` after `Choices:`.
"""

import re
from string import ascii_uppercase

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.letters import chosen, right_letter
from tunestudy.bench.metrics.reading import declared, evened, number
from tunestudy.config.benchmark import Compat

NAME = "rule_accuracy"
WAYS: tuple[Compat, ...] = ("official", "strict")
_LETTERS_ONLY = ("",) * 5
_OPTION = re.compile(r"^\s*([A-H])\s*[:.]\s*(.+?)\s*$", re.MULTILINE)
_MARKS = re.compile(r"\\(?:left|right|text|mathrm|mbox|[()\[\],;! ])|[${}\s]|\\?\^\\?circ|°")
_FRACTION = re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    choosing = target.facts.get("question_type") == "multi-choice"
    if choosing and way == "official":
        choices = target.choices or _choices(str(target.facts.get("question_for_eval"))) or _LETTERS_ONLY
        letter = chosen(declared(prediction) or prediction, choices) or chosen(prediction, choices)
        return Verdict(float(letter is not None and letter == right_letter(target)), letter)
    answers = (target.letter,) if choosing and target.letter else target.answers
    said = evened(prediction)
    if way == "strict":
        return Verdict(float(said in {evened(answer) for answer in answers}), said or None)
    said = declared(prediction) or said
    return Verdict(float(any(_same(said, answer) for answer in answers)), said or None)


def _choices(question: str) -> tuple[str, ...]:
    """Options of a question's text; none unless they are A, B, … in order, each on its line."""
    found = _OPTION.findall(question.partition("Choices:")[2])
    letters = "".join(letter for letter, _ in found)
    return tuple(text for _, text in found) if letters and ascii_uppercase.startswith(letters) else ()


def _same(said: str, answer: str) -> bool:
    one, other = _plain(said), _plain(answer)
    values = number(one), number(other)
    if values[0] is not None and values[1] is not None:
        return abs(values[0] - values[1]) <= 1e-9 * max(1.0, abs(values[1]))
    return one == other != ""


def _plain(text: str) -> str:
    text = _ROOT.sub(r"√(\1)", _FRACTION.sub(r"\1/\2", evened(text)))
    text = re.sub(r"√\((\w+)\)", r"√\1", _MARKS.sub("", text)).lower().removesuffix(".")
    return re.sub(r"^[a-z]=", "", text)

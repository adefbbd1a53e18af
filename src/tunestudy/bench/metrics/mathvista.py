"""MathVista by rules alone, where its authors have a judge take the answer from the text: another metric than theirs.

Source: Lu et al. 2023, arXiv:2310.02255; lupantech/MathVista, evaluation/{extract_answer,calculate_score}.py. An answer
is taken from the text, brought into the form that `answer_type` asks for (an option, an integer, a number of
`precision` decimals, a list) and compared.

- `official`: the authors' quick rules (the text is the option or the number; `The answer is "…".`), then what the text
  declares, its option as in `choice`, or its only number. Integers are cut off and decimals rounded as the authors do;
  numbers are compared as numbers, so that `1.40` is `1.4`.
- `lmms-eval`: lmms_eval/tasks/mathvista/mathvista_evals.py with a judge that hands the text back as it is. The nearest
  option by edit distance is taken, of no answer too, and a `precision` that is a float, as the hub's data have it,
  makes every decimal answer wrong.
- `strict`: the text is the answer and nothing else, and an integer has no decimals.

Facts: `question_type` (multi_choice or free_form), `answer_type` (text, integer, float, list), `precision`.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.letters import chosen
from tunestudy.bench.metrics.reading import declared, distance, number, numbers
from tunestudy.config.benchmark import Compat

NAME = "rule_accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")
_QUICK = re.compile(r'The answer is "(.*)"\.')


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    if way == "lmms-eval":
        said = _of_peers(prediction.strip(), target)
        return Verdict(float(said is not None and said.strip() in {answer.strip() for answer in target.answers}), said)
    strict = way == "strict"
    if target.facts.get("question_type") == "multi_choice":
        said = _option(prediction, target.choices, strict)
        return Verdict(float(said in target.answers), said)
    return _free(prediction, target, strict)


def _option(text: str, choices: Sequence[str], strict: bool) -> str | None:
    quick = None if strict else _QUICK.search(text)
    letter = chosen(quick[1] if quick else text, choices, strict=strict)
    return None if letter is None else choices[ascii_uppercase.index(letter)]


def _free(text: str, target: Target, strict: bool) -> Verdict:
    kind = target.facts.get("answer_type")
    if kind == "list":
        said = numbers(text) if (strict and _is_list(text)) or not strict else []
        right = said != [] and any(said == numbers(answer) for answer in target.answers)
        return Verdict(float(right), str(said) if said else None)
    value = number(text) if strict else _value(text)
    wanted = [number(answer) for answer in target.answers]
    if value is None:
        return Verdict(0.0)
    if kind == "integer":
        value = value if strict else float(int(value))
        return Verdict(float(value in wanted), f"{value:g}" if value % 1 else str(int(value)))
    digits = target.facts.get("precision")
    decimals = 12 if digits is None or digits != digits else int(float(digits))
    right = any(answer is not None and round(value, decimals) == round(answer, decimals) for answer in wanted)
    return Verdict(float(right), str(round(value, decimals)))


def _is_list(text: str) -> bool:
    return re.fullmatch(r"\[.*\]", text.strip()) is not None


def _value(text: str) -> float | None:
    """The number of a text: all of it, what it declares, or the only one in it."""
    quick = _QUICK.search(text)
    said = quick[1] if quick else declared(text)
    for part in (text, said or ""):
        if (value := number(part.strip().strip("$%. "))) is not None:
            return value
    found = {*numbers(text if said is None else said)}
    return found.pop() if len(found) == 1 else None


def _of_peers(text: str, target: Target) -> str | None:
    kind = target.facts.get("answer_type")
    if target.facts.get("question_type") == "multi_choice":
        return _nearest(text, target.choices)
    try:
        if kind == "integer":
            return str(int(float(text)))
        if kind == "float":
            return str(round(float(text), target.facts.get("precision", 0)))
    except (ValueError, TypeError, OverflowError):
        return None
    return text


def _nearest(text: str, choices: Sequence[str]) -> str | None:
    marked = re.findall(r"\(([a-zA-Z])\)", text)
    wanted = marked[0].upper() if marked else text
    letters = ascii_uppercase[: len(choices)]
    if len(wanted) == 1 and wanted in letters:
        return choices[letters.index(wanted)]
    return min(choices, key=lambda choice: distance(wanted, choice), default=None)

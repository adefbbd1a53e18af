"""Whether a statement was called true or false, as it is (TabFact).

The answer is `1`, `true`, `entailed` or `0`, `false`, `refuted`, as the data set has it. Source of the task: Chen et
al. 2020, arXiv:1909.02164; of the reading: naver-ai/tablevqabench, evaluate_tabfact, which looks for the words in the
text and takes a text with both for neither.

- `official`: exactly one of the words stands in the text, as a word (`untrue` is not true), and is not negated.
- `strict`: the text is that word and nothing else.
"""

import re

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import bare, folded
from tunestudy.config.benchmark import Compat
from tunestudy.config.errors import StudyError

NAME = "accuracy"
WAYS: tuple[Compat, ...] = ("official", "strict")
_WORDS = {"true": True, "false": False, "참": True, "거짓": False}
_LABELS = _WORDS | {"1": True, "0": False, "entailed": True, "refuted": False, "yes": True, "no": False}
_IN_TEXT = re.compile(r"(\bnot\s+|n't\s+)?(?:\b(true|false)\b|(참|거짓)(?=입니다|이다|$|[\s.,]))")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1. Raises StudyError if the right answer is none of the words above."""
    said = _strict(prediction) if way == "strict" else _official(prediction)
    wanted = {_label(answer) for answer in target.answers}
    return Verdict(float(said in wanted), None if said is None else str(said).lower())


def _label(answer: str) -> bool:
    label = _LABELS.get(bare(answer))
    if label is None:
        raise StudyError("answer", f"`{answer}` says neither true nor false; write one of {', '.join(_LABELS)}")
    return label


def _official(text: str) -> bool | None:
    found = [(bool(negated), _WORDS[latin or hangul]) for negated, latin, hangul in _IN_TEXT.findall(folded(text))]
    if any(negated for negated, _ in found) or len({word for _, word in found}) != 1:
        return None
    return found[0][1]


def _strict(text: str) -> bool | None:
    return _WORDS.get(bare(text))

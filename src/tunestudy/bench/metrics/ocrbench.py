"""OCRBench: a right answer stands somewhere in what the model wrote.

Source: Liu et al. 2023, arXiv:2305.07895; Yuliang-Liu/MultimodalOCR, OCRBench/example.py. Case does not count and line
breaks are spaces; only in handwritten formulas (data set HME100k) case counts and spaces do not. The benchmark's points
of 1000 are this score × 1000 over its 1000 questions; here it is the mean of the rows that were asked.

- `official`: so, in one Unicode form. An empty right answer stands in nothing.
- `lmms-eval`: lmms_eval/tasks/ocrbench/utils.py: full-width Latin is folded first; an empty answer stands in any text.
- `strict`: the answer is not part of a longer word or number (`1` is not in `2014`); a formula is the whole text.

Facts: `dataset` and `question_type`, of which either tells a formula.
"""

import re

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import evened, folded
from tunestudy.config.benchmark import Compat

NAME = "ocrbench_accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")
_FORMULAS = {"HME100k", "Handwritten Mathematical Expression Recognition"}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    formula = not _FORMULAS.isdisjoint(str(target.facts.get(key)) for key in ("dataset", "question_type"))
    stands = {"official": _official, "lmms-eval": _of_peers, "strict": _strict}[way]
    right = any(stands(answer, prediction, formula) for answer in target.answers)
    return Verdict(float(right), evened(prediction) or None)


def _official(answer: str, text: str, formula: bool) -> bool:
    if formula:
        answer, text = _closed(answer), _closed(text)
    else:
        answer, text = folded(answer), folded(text)
    return answer != "" and answer in text


def _strict(answer: str, text: str, formula: bool) -> bool:
    if formula:
        return _closed(answer) == _closed(text) != ""
    wanted = folded(answer)
    return wanted != "" and re.search(rf"(?<![0-9a-z]){re.escape(wanted)}(?![0-9a-z])", folded(text)) is not None


def _of_peers(answer: str, text: str, formula: bool) -> bool:
    if formula:
        answer, text = (part.strip().replace("\n", " ").replace(" ", "") for part in (answer, text))
    else:
        text = text.strip()
        answer, text = (part.translate(_FULL_WIDTH).lower().strip().replace("\n", " ") for part in (answer, text))
    return answer in text


def _closed(text: str) -> str:
    return evened(text).replace(" ", "")

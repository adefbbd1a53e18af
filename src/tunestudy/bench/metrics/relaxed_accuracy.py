"""Relaxed accuracy (ChartQA): a number may be off by 5 % of the right one; any other answer must be equal.

Source: Masry et al. 2022, arXiv:2203.10244, section 5.1, after Methani et al. 2020. Case does not count.

- `official`: the paper. Thousands are understood, `1_000` and `nan` are text, a right 0 is met by any zero, and a per
  cent sign on one side only is a unit or a hundredth, whichever fits. The paper makes no exception of years: 2019
  passes for 2020.
- `lmms-eval`: lmms_eval/tasks/chartqa/utils.py, which has none of this: what Python's float() reads is a number, a
  right 0 is compared as text, and `5%` is 0.05 and never 5.
- `strict`: as `official`, but a year (1500 to 2099, four digits) must be exact and `5%` is 0.05 alone.
"""

import re

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import evened, folded, number
from tunestudy.config.benchmark import Compat

NAME = "relaxed_accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")
_TOLERANCE = 0.05
_YEAR = re.compile(r"(1[5-9]|20)\d\d", re.ASCII)


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1; with several right answers, the best."""
    right = {"official": _official, "lmms-eval": _of_peers, "strict": _strict}[way]
    score = max((float(right(prediction, answer)) for answer in target.answers), default=0.0)
    return Verdict(score, evened(prediction) or None)


def _official(prediction: str, answer: str) -> bool:
    said, wanted = _number(prediction), _number(answer)
    if said is None or wanted is None:
        return folded(prediction) == folded(answer)
    if _percent(prediction) == _percent(answer):
        return _near(said, wanted)
    unit, hundredth = _near(said, wanted), _near(*_as_hundredths(prediction, answer))
    return unit or hundredth


def _strict(prediction: str, answer: str) -> bool:
    said, wanted = _number(prediction), _number(answer)
    if said is None or wanted is None:
        return folded(prediction) == folded(answer)
    if _YEAR.fullmatch(answer.strip()):
        return said == wanted and not _percent(prediction)
    return _near(*_as_hundredths(prediction, answer))


def _percent(text: str) -> bool:
    return text.strip().endswith("%")


def _number(text: str) -> float | None:
    return number(text.strip().removesuffix("%"))


def _as_hundredths(*texts: str) -> list[float]:
    return [(_number(text) or 0.0) / (100 if _percent(text) else 1) for text in texts]


def _near(said: float, wanted: float) -> bool:
    """Whether `said` is within the tolerance; its border is part of it, whatever a float makes of 0.05."""
    return abs(said - wanted) <= _TOLERANCE * abs(wanted) * (1 + 1e-12)


def _of_peers(prediction: str, answer: str) -> bool:
    said, wanted = _float(prediction), _float(answer)
    if said is None or not wanted:
        return prediction.lower() == answer.lower()
    return abs(said - wanted) / abs(wanted) <= _TOLERANCE


def _float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

"""Accuracy of K-DTCBench's multiple choice.

Source: NCSOFT, K-DTCBench (with VARCO-VISION, Ju et al. 2024, arXiv:2411.19103): 240 questions on Korean documents,
tables and charts, each with four options.

- `official`, `strict`: as in `choice`.
- `lmms-eval`: lmms_eval/tasks/dtcbench/utils.py takes the first character, whatever it is: `(B)` is read as a bracket,
  `정답: B` as 정. Case does not count.
"""

from tunestudy.bench.metrics import Target, Verdict, choice
from tunestudy.bench.metrics.letters import right_letter
from tunestudy.config.benchmark import Compat

NAME = choice.NAME
WAYS = choice.WAYS


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    if way != "lmms-eval":
        return choice.verdict(prediction, target, way)
    first = prediction.strip()[:1].upper()
    return Verdict(float(first != "" and first == right_letter(target)), first or None)

"""Accuracy of BLINK's multiple choice.

Source: Fu et al. 2024, arXiv:2404.12390; zeyofu/BLINK_Benchmark, eval/evaluate.py compares `(B)` with `(B)` after a
judge has made a letter of what the model wrote.

- `official`, `strict`: as in `choice`, without a judge.
- `lmms-eval`: lmms_eval/tasks/blink/utils.py takes the first Latin letter if the text begins with one, brackets aside:
  `The answer is B` is read as T.
"""

import re

from tunestudy.bench.metrics import Target, Verdict, choice
from tunestudy.bench.metrics.letters import right_letter
from tunestudy.config.benchmark import Compat

NAME = choice.NAME
WAYS = choice.WAYS


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    if way != "lmms-eval":
        return choice.verdict(prediction, target, way)
    found = re.match(r"[(\s]*([A-Z])", prediction.strip(), re.IGNORECASE)
    letter = found[1].upper() if found else None
    return Verdict(float(letter is not None and letter == right_letter(target)), letter)

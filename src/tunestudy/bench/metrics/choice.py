"""Accuracy of multiple choice by what a text says: MMBench's rules without a judge.

Source: Liu et al. 2023, arXiv:2307.06281, section 4.2 (match the letter, then the option's text, then ask a judge).
No judge is asked here and nothing is drawn at random: a text that chooses no option is wrong, and counted as not
understood.

- `official`: the matching rules of MMBench and of open-compass/VLMEvalKit, vlmeval/utils/matching_util.py, as
  `letters.chosen` has them: an A before a small word is an article; `answer is B` decides; option texts are found
  as whole words, and the options stay as they are. Korean answers (`정답: B`, `B입니다`) are understood.
- `lmms-eval`: lmms_eval/tasks/mmbench/mmbench_evals.py with `eval_method="static"` (mmbench_en_dev_static): its own
  matching, then tasks/_task_utils/mcq_extract.py, which takes the best placed capital letter of any word. With its
  default method a judge is asked and, failing that, a letter is drawn, which no rule can repeat.
- `strict`: a letter alone or behind `Answer:`, exactly an option's text, or a letter with its own option's text.
"""

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.letters import chosen, right_letter
from tunestudy.bench.metrics.peer_letters import mmbench
from tunestudy.config.benchmark import Compat

NAME = "accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score 0 or 1."""
    if way == "lmms-eval":
        letter = mmbench(prediction.strip(), target.choices) or None
    else:
        letter = chosen(prediction, target.choices, strict=way == "strict")
    return Verdict(float(letter is not None and letter == right_letter(target)), letter)

"""VQA accuracy of VQAv2: as `vqa`, with the answer processing of VQA's own evaluation.

It has no step that drops commas and question marks or parts a possessive, so that `girl's` stays one word. Source:
Goyal et al. 2017, arXiv:1612.00837; GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py.

- `official`: so, on both sides alike and with the slips of `vqa` put right. VQA's own code leaves ten equal answers as
  they are, and articles in any right answer, which the data set does not have.
- `lmms-eval`: lmms_eval/tasks/vqav2/utils.py.
- `strict`: as of `vqa`.
"""

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import folded
from tunestudy.bench.metrics.vqa import KEPT, PERIODS_OF_PEERS, agreement, processed, with_slashed_articles
from tunestudy.config.benchmark import Compat

NAME = "vqa_accuracy"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval", "strict")


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score in 0…1, in steps of 1/30 with ten answers."""
    process = {"official": _official, "lmms-eval": _of_peers, "strict": folded}[way]
    said = process(prediction)
    return Verdict(agreement(said, [process(answer) for answer in target.answers]), said or None)


def _official(text: str) -> str:
    return processed(with_slashed_articles(text), periods=0).replace(KEPT, "")


def _of_peers(text: str) -> str:
    return processed(text, periods=PERIODS_OF_PEERS)

"""Average normalised Levenshtein similarity (DocVQA, InfographicVQA): 1 − NL to the nearest right answer, 0 if too far.

NL is the edit distance divided by the longer text's length, in characters; Hangul counts by syllables.
Source: Biten et al. 2019, arXiv:1905.13648, eq. 1.

- `official`: as in the paper, which gives an answer nothing unless NL < 0.5. Case, runs of white space and Unicode form
  do not count, neither in the distance nor in the length it is divided by.
- `lmms-eval`: lmms_eval/api/metrics.py, as the script infographicsvqa_eval.py has it. NL = 0.5 still scores 0.5,
  lengths are those of the texts before white space is evened, and NFD differs from NFC.
"""

from tunestudy.bench.metrics import Target, Verdict
from tunestudy.bench.metrics.reading import distance, folded
from tunestudy.config.benchmark import Compat

NAME = "anls"
WAYS: tuple[Compat, ...] = ("official", "lmms-eval")
_THRESHOLD = 0.5


def verdict(prediction: str, target: Target, way: Compat) -> Verdict:
    """Score in {0} ∪ (0.5…1], with `lmms-eval` [0.5…1]."""
    if way == "official":
        said = folded(prediction)
        distances = [_relative(said, folded(answer)) for answer in target.answers]
    else:
        said = " ".join(prediction.lower().split())
        distances = [_of_peers(prediction, answer) for answer in target.answers]
    nearest = min(distances, default=1.0)
    near = nearest < _THRESHOLD or (way == "lmms-eval" and 1 - nearest >= _THRESHOLD)
    return Verdict(1 - nearest if near else 0.0, said or None)


def _relative(one: str, other: str) -> float:
    return distance(one, other) / (max(len(one), len(other)) or 1)


def _of_peers(prediction: str, answer: str) -> float:
    said, wanted = (" ".join(text.strip().lower().split()) for text in (prediction, answer))
    return distance(said, wanted) / (max(len(prediction.upper()), len(answer.upper())) or 1)

"""Log-probabilities of given tokens, and windows over texts that are longer than a model's context."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tunestudy.bench.tasks import Question

Ids = tuple[int, ...]

HEAD_POSITIONS = 512
"""Positions whose log-softmax is taken at once, in float32."""


@dataclass(frozen=True)
class Answered:
    """What a model makes of an answer's tokens (T,), given all that stands before each."""

    log_probs: tuple[float, ...]
    greedy: bool
    """Whether each token is the most probable one: greedy generation would write the same."""

    @property
    def total(self) -> float:
        return sum(self.log_probs)


@dataclass(frozen=True)
class Window:
    """Tokens begin…end of a text, of which those from `counts_from` on are scored."""

    begin: int
    counts_from: int
    end: int


def windows(length: int, *, first: int, max_length: int, stride: int) -> Iterator[Window]:
    """Windows of at most `max_length` tokens in which each token from `first` on is scored exactly once.

    The first window scores all that it can; each later one scores the next `stride` tokens and holds as much of what
    stands before them as fits, so that a token has at least `max_length - stride` tokens before it, or all there are.
    `first` ≥ 1: a token that nothing stands before has no probability.
    Source: Hugging Face, "Perplexity of fixed-length models", docs of transformers; its last window is shorter than
    the others, this one is not.
    """
    assert 1 <= stride <= max_length - 1 and first >= 1
    end = min(length, max(max_length, first + stride))
    while first < length:
        yield Window(max(0, end - max_length), first, end)
        first, end = end, min(length, end + stride)


def answered(logits_BKV: Tensor, ids_BT: Tensor, answers: Sequence[Ids]) -> list[Answered]:
    """From the logits in front of each of the last K tokens of left-padded rows, which end with their answers.

    Shapes: logits (B, K, V), ids (B, T), K < T.
    """
    targets_BK = ids_BT[:, -logits_BKV.shape[1] :]
    found: list[Answered] = []
    for logits_KV, targets_K, answer in zip(logits_BKV, targets_BK, answers, strict=True):
        log_probs, greedy = _of_row(logits_KV[-len(answer) :], targets_K[-len(answer) :])
        found.append(Answered(tuple(log_probs), greedy))
    return found


def _of_row(logits_KV: Tensor, targets_K: Tensor) -> tuple[list[float], bool]:
    log_probs: list[float] = []
    greedy = True
    for begin in range(0, len(targets_K), HEAD_POSITIONS):
        part_KV = logits_KV[begin : begin + HEAD_POSITIONS].float()
        part_K = targets_K[begin : begin + HEAD_POSITIONS]
        log_probs += (part_KV.gather(-1, part_K[:, None])[:, 0] - part_KV.logsumexp(-1)).tolist()
        greedy = greedy and bool((part_KV.argmax(-1) == part_K).all())
    return log_probs, greedy


Asked = tuple[Question, Ids]
"""What stands before, at least one token, and the tokens whose probabilities are wanted."""


def context_of(model: Any) -> int | None:
    """Tokens that a model's positions reach; None where its configuration does not say."""
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return None if found is None else int(found)

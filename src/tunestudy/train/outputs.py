"""Outputs of two forms of one model, side by side: logits on fixed tokens, perplexity on held-out rows."""

import math
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunestudy.config.job import Job
from tunestudy.data.prepare import prepare
from tunestudy.models.loaded import LoadedModel
from tunestudy.records.layout import JobDir
from tunestudy.train.world import World

MOST_ROWS = 16
PROBE_TOKENS = 24
LARGEST_LOSS = math.log(sys.float_info.max)
"""Nats; e to more is no float."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tokenised rows; none, and why."""

    samples: tuple[tuple[Tensor, Tensor], ...] = ()
    """ids (T,) int64 and targets (T,) bool."""
    why_none: str = ""


def probe_ids(tokenizer: Any, *, seed: int) -> Tensor:
    """(2, T) ordinary tokens, the same for equal tokenizers; none that stands for an image."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    drawn = torch.randint(len(ordinary), (2, PROBE_TOKENS), generator=torch.Generator().manual_seed(seed))
    return ordinary[drawn]


@torch.no_grad()
def logits_of(model: Any, ids: Tensor) -> Tensor:
    """(B, T, V) float32 on the host, in eval mode."""
    model.eval()
    found: Tensor = model(input_ids=ids).logits.float().cpu()
    return found


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where one is not finite."""
    difference = float((one - other).abs().max())
    return difference if math.isfinite(difference) else math.inf


def rows_of(job: Job, folder: JobDir, loaded: LoadedModel) -> Rows:
    """The first held-out rows of the job's data that have no image."""
    if job.training is None:
        return Rows(why_none="the stage has no data of its own")
    if loaded.processor is not None:
        return Rows(why_none="rows with images are not read here; `tunestudy eval` scores the folder")
    data = prepare(job, folder, loaded.tokenizer, World())
    corpus = data.eval
    if corpus is None or len(corpus) == 0:
        return Rows(why_none="the study holds no rows out")
    samples = []
    for number in range(min(MOST_ROWS, len(corpus))):
        start, end = int(corpus.offsets[number]), int(corpus.offsets[number + 1])
        ids = torch.from_numpy(corpus.ids[start:end].astype("int64"))
        samples.append((ids, torch.from_numpy(corpus.is_target[start:end].copy())))
    return Rows(samples=tuple(samples))


@torch.no_grad()
def perplexity(model: Any, rows: Rows) -> float | None:
    """Of target tokens over all rows; None without rows, infinite where it is too large for a float."""
    total, count = 0.0, 0
    for ids, is_target in rows.samples:
        logits = logits_of(model, ids[None].to(model.device))[0, :-1]
        losses = cross_entropy(logits.double(), ids[1:], reduction="none")
        total += float(losses[is_target[1:]].sum())
        count += int(is_target[1:].sum())
    if not count:
        return None
    mean = total / count
    return math.inf if mean > LARGEST_LOSS else math.exp(mean)

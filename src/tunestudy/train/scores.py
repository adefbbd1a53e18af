"""Scores of samples: the mean NLL of a sample's targets under a frozen model, in nats.

The same to the last digit for any number of ranks and any batch size of the stage: samples of one length go through
the model together, in batches that the data alone decide, without padding; ranks take whole batches in turn, and their
results meet in one sum of disjoint places. Scores are kept to 1e-4 nats, so that rounding of another device or kernel
hardly ever moves a sample; equal ones are ordered by id.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from tunestudy.config.engines import slices_weights
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import ModelConfig
from tunestudy.config.order import ScoreOrder
from tunestudy.data.batch import batch_of
from tunestudy.data.build import eyes_of
from tunestudy.data.corpus import Corpus, open_corpus
from tunestudy.data.prepare import PreparedData, made_once, tokenizer_identity, wanted_data
from tunestudy.data.sources import Folders
from tunestudy.data.vision import Eyes
from tunestudy.models.components.world_projector import world_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import load_tokenizer
from tunestudy.models.own import frozen_identity, load_frozen
from tunestudy.train.loss import LossModel
from tunestudy.train.precision import Precision
from tunestudy.train.run import Task

SCORES_VERSION = 1
"""Raised when the same samples begin to get other scores: old files are then left aside."""

TOKENS_PER_BATCH = 8192
"""Of samples of one length; a longer sample is a batch of its own."""

DIGITS = 4
"""Decimals of a score, in nats."""

TURNS_BETWEEN_LOOKS = 16
"""After so many batches of each rank all meet, so that a collective never waits for more than those."""


class AskedToLeaveError(Exception):
    """The job was asked to stop while it scored; nothing was written."""


@dataclass(frozen=True)
class Scorer:
    """A frozen model and the samples as it reads them. Both are only made where scores are missing."""

    name: str
    """16 hex digits over all that decides its scores but the data."""
    model: Callable[[], Any]
    corpus: Callable[[], Corpus]
    precision: Precision
    eyes: Eyes | None = None


def open_scorer(task: Task, order: ScoreOrder, loaded: LoadedModel, model: Any, data: PreparedData) -> Scorer:
    """The scorer that an order names. `model`: the stage's, at step 0."""
    if order.scorer == "start":
        return _start(task, loaded, model, data)
    job, folder = task.job, task.folder
    is_own = order.scorer == "base" or order.scorer == job.model
    config = job.model if is_own else cast(ModelConfig, order.scorer)
    tokenizer = load_tokenizer(config, folder.root / job.base_dir)
    bits = task.settings.quantization if is_own else None
    facts = {
        "identity": frozen_identity(job, config, folder, tokenizer),
        "quantization": None if bits is None else bits.model_dump(mode="json"),
    }
    if data.train.images is not None and not is_own:
        where = at(f"stages.{job.stage}.order.scorer")
        raise StudyError(where, "only the study's own model can score images: use start or base")
    if order.scorer == "base" and (world_of(loaded.model) or getattr(base_model_of(loaded.model), "components", None)):
        where = at(f"stages.{job.stage}.order.scorer")
        raise StudyError(where, "base lacks the parts that this stage's model has beside it; use start")
    reads_alike = tokenizer_identity(tokenizer) == tokenizer_identity(loaded.tokenizer)
    return Scorer(
        name=_name(task, config, tokenizer, facts),
        model=lambda: load_frozen(job, config, folder, tokenizer, task.world.device),
        corpus=lambda: data.train if reads_alike else own_reading(task, tokenizer),
        precision=Precision(task.settings, config, task.world.device),
        eyes=eyes_of(loaded.vision, job, folder) if is_own else None,
    )


def _start(task: Task, loaded: LoadedModel, model: Any, data: PreparedData) -> Scorer:
    """The stage's own weights before its first step. A new adapter changes nothing then but, for some kinds, rounding
    that depends on the seed."""
    settings, job = task.settings, task.job
    if slices_weights(settings) and task.world.size > 1:
        cure = "use scorer: base or a smaller model, which every rank holds whole, or order by a column"
        where = at(f"stages.{job.stage}.order.scorer")
        raise StudyError(where, f"start cannot be scored in slices; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    facts = {
        "identity": loaded.identity,
        "quantization": None if settings.quantization is None else settings.quantization.model_dump(mode="json"),
        "parents": list(job.parents),
        "init": settings.init,
        "adapter": None if settings.adapter is None else settings.adapter.model_dump(mode="json"),
        "components": None if settings.components is None else settings.components.model_dump(mode="json"),
        "world": None if settings.world is None else settings.world.model_dump(mode="json", exclude={"device"}),
        "seed": job.seed if settings.adapter or settings.components or settings.world else None,
    }
    return Scorer(
        name=_name(task, job.model, loaded.tokenizer, facts),
        model=lambda: model,
        corpus=lambda: data.train,
        precision=Precision(settings, job.model, task.world.device),
        eyes=eyes_of(loaded.vision, job, task.folder),
    )


def _name(task: Task, config: ModelConfig, tokenizer: Any, facts: dict[str, Any]) -> str:
    dtype = str(Precision(task.settings, config, task.world.device).dtype)
    parts = {"version": SCORES_VERSION, "dtypes": [config.dtype, dtype], "tokenizer": tokenizer_identity(tokenizer)}
    return hashlib.sha256(json.dumps({**parts, **facts}, sort_keys=True, default=str).encode()).hexdigest()[:16]


def own_reading(task: Task, tokenizer: Any) -> Corpus:
    """The stage's samples under another tokenizer; one that is too long for it is cut, not left out."""
    settings = task.settings.model_copy(update={"overlong": "truncate"})
    wanted = wanted_data(task.job, settings, Folders.of(task.job, task.folder))
    return open_corpus(made_once(wanted, task.folder.study, tokenizer, settings, task.world) / "train")


def scores_of(task: Task, scorer: Scorer, corpus: Corpus) -> tuple[list[float | None], dict[str, Any]]:
    """(N,) the score of each sample of `corpus`; None where the scorer's own tokenizer leaves nothing to score.

    Every rank calls, with one all-reduce at the end. Raises AskedToLeaveError on every rank alike.
    """
    read = scorer.corpus()
    nll, targets = (part.tolist() for part in summed_losses(task, scorer.model(), read, scorer.precision, scorer.eyes))
    own = {name: index for index, name in enumerate(zip(read.source.tolist(), read.sample_ids, strict=True))}
    scores: list[float | None] = []
    for source, name in zip(corpus.source.tolist(), corpus.sample_ids, strict=True):
        index = own.get((source, name))
        scores.append(None if index is None else round(nll[index] / targets[index], DIGITS))
    return scores, {"kind": "mean NLL", "scorer": scorer.name, "without_score": scores.count(None)}


@torch.no_grad()
def summed_losses(
    task: Task, model: Any, corpus: Corpus, precision: Precision, eyes: Eyes | None = None
) -> NDArray[np.float64]:
    """(2, N) Σ NLL and number of the target tokens of every sample; alike on all ranks. Leaves the model as it was."""
    world = task.world
    batches = batches_of(corpus)
    training = [module for module in model.modules() if module.training]
    loss_model = LossModel(model).eval()
    found = torch.zeros(2, len(corpus), dtype=torch.float64, device=world.device)
    for turn in range(-(-len(batches) // world.size)):
        if turn % TURNS_BETWEEN_LOOKS == 0:
            look(task, turn)
        number = turn * world.size + world.rank
        if number < len(batches):
            with precision.autocast():
                found[:, batches[number]] = _losses(loss_model, corpus, batches[number], world.device, eyes)
    for module in training:
        module.training = True
    with world.at("the scores of samples"):
        summed: NDArray[np.float64] = world.all_reduce_sum(found).cpu().numpy()
    if not np.isfinite(summed).all():
        raise RuntimeError("the scorer's loss is not finite on some sample; another dtype of it usually cures that")
    return summed


def look(task: Task, turn: int) -> None:
    """All ranks meet, and leave together if one was asked to."""
    with task.world.at(f"turn {turn} of scoring"):
        leaving = task.world.any(bool(task.stop))
    if leaving:
        raise AskedToLeaveError


def _losses(
    loss_model: LossModel, corpus: Corpus, samples: list[int], device: torch.device, eyes: Eyes | None
) -> torch.Tensor:
    """(2, samples) Σ NLL and targets of samples of one length."""
    rows = [(sample,) for sample in samples]
    batch = batch_of(corpus, rows, "right", mark_samples=True, eyes=eyes)
    losses = loss_model(batch.to(device))
    assert losses.nll_by_sample is not None and losses.tokens_by_sample is not None
    return torch.stack([losses.nll_by_sample, losses.tokens_by_sample.double()]).to(device)


def batches_of(corpus: Corpus) -> list[list[int]]:
    """Samples of one length in batches of at most `TOKENS_PER_BATCH`, the longest first: memory runs out at once."""
    order = np.argsort(-corpus.lengths, kind="stable")
    lengths = corpus.lengths[order]
    borders = np.flatnonzero(np.diff(lengths)) + 1
    groups = np.split(order, borders) if len(order) else []
    batches = []
    for group in groups:
        size = max(1, TOKENS_PER_BATCH // int(corpus.lengths[group[0]]))
        batches += [group[start : start + size].tolist() for start in range(0, len(group), size)]
    return batches

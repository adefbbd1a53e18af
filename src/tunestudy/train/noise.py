"""Randomness inside a step, as a pure function of where in the run it happens.

Nothing of it is stored in a checkpoint: a resumed run, or one with evaluations in between, draws the same numbers.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.data.batch import Batch


def seed_of(*place: object) -> int:
    """A seed of 63 bits for a place such as (seed, step, micro-batch, rank)."""
    digest = hashlib.blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class EmbeddingNoise:
    """NEFTune: uniform noise of ±alpha/√(length · width) on the embeddings of every sample.

    Drawn per sample from its tokens, so it depends neither on the rank nor on how a batch is laid out.
    Source: Jain et al. 2023, arXiv:2310.05914, algorithm 1.
    """

    def __init__(self, embeddings: nn.Module, alpha: float | None, *, seed: int) -> None:
        self._embeddings = embeddings
        self._alpha = alpha
        self._seed = seed

    @contextmanager
    def on(self, batch: Batch, step: int) -> Iterator[None]:
        """Add noise within the `with` block only, so that evaluation and saving never see it."""
        if self._alpha is None:
            yield
            return

        applied = False

        def add(_module: nn.Module, inputs: tuple[Any, ...], embedded_BTD: Tensor) -> Tensor:
            nonlocal applied
            if inputs[0].data_ptr() != batch.input_ids.data_ptr():
                return embedded_BTD  # a trial run of the model, not this batch
            applied = True
            return embedded_BTD + self._noise(batch, step, embedded_BTD)

        handle = self._embeddings.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()
        assert applied, "this model does not embed the ids it is given, so neftune_noise_alpha would do nothing"

    def _noise(self, batch: Batch, step: int, embedded_BTD: Tensor) -> Tensor:
        assert self._alpha is not None
        width = embedded_BTD.shape[-1]
        noise_BTD = torch.zeros(embedded_BTD.shape)
        ids_BT = batch.input_ids.cpu()
        for row, start, end in samples_in(batch):
            content = hashlib.blake2b(ids_BT[row, start:end].numpy().tobytes(), digest_size=8).hexdigest()
            generator = torch.Generator().manual_seed(seed_of(self._seed, step, content))
            bound = self._alpha / math.sqrt((end - start) * width)
            noise_BTD[row, start:end] = (torch.rand(end - start, width, generator=generator) * 2 - 1) * bound
        return noise_BTD.to(embedded_BTD)


def samples_in(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """(row, start, end) of every sample in a batch, found by positions that start again at 0."""
    starts_BT = batch.position_ids.cpu() == 0
    mask_BT = None if batch.attention_mask is None else batch.attention_mask.cpu()
    for row in range(len(starts_BT)):
        used = starts_BT.shape[1] if mask_BT is None else int(mask_BT[row].sum())
        starts = [*starts_BT[row, :used].nonzero().flatten().tolist(), used]
        yield from ((row, start, end) for start, end in pairwise(starts))

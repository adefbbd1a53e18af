"""Noise on embeddings is a function of seed, step and sample, not of the batch around it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from cut import micro_batches
from made_corpus import corpus_of

from tunestudy.data.batch import Batch
from tunestudy.train.noise import EmbeddingNoise, samples_in, seed_of

WIDTH, ALPHA = 8, 5.0
random = np.random.default_rng(0)
CORPUS = corpus_of([(random.integers(1, 50, n), np.ones(n, bool)) for n in (5, 3, 7, 4)])
EMBEDDINGS = nn.Embedding(50, WIDTH)


def noise_of(batch: Batch, *, step: int = 3, seed: int = 1, alpha: float | None = ALPHA) -> torch.Tensor:
    with torch.no_grad():
        plain = EMBEDDINGS(batch.input_ids)
        with EmbeddingNoise(EMBEDDINGS, alpha, seed=seed).on(batch, step):
            noisy = EMBEDDINGS(batch.input_ids)
    return noisy - plain


def by_sample(batches: list[Batch], **options: object) -> dict[tuple[int, ...], torch.Tensor]:
    found = {}
    for batch in batches:
        noise = noise_of(batch, **options)
        for row, start, end in samples_in(batch):
            found[tuple(batch.input_ids[row, start:end].tolist())] = noise[row, start:end]
    return found


def cut(rows: list[tuple[int, ...]], micro_batch: int, layout: str, rank: int = 0, size: int = 1) -> list[Batch]:
    return micro_batches(CORPUS, rows, rank=rank, world_size=size, micro_batch=micro_batch, layout=layout)


def test_a_sample_gets_the_same_noise_in_every_layout_and_on_every_rank() -> None:
    singles = [(0,), (1,), (2,), (3,)]
    expected = by_sample(cut(singles, 1, "right"))
    assert len(expected) == 4
    for batches in (
        cut(singles, 4, "right"),
        cut(singles, 4, "free"),
        cut([(0, 1), (2, 3)], 2, "right"),
        cut([(0, 1), (2, 3)], 1, "free"),
        cut(singles, 2, "right", 0, 2) + cut(singles, 2, "right", 1, 2),
    ):
        found = by_sample(batches)
        assert found.keys() == expected.keys()
        for key, noise in found.items():
            torch.testing.assert_close(noise, expected[key], rtol=0, atol=1e-6)


def test_noise_is_bounded_by_the_samples_own_length_and_padding_has_none() -> None:
    (batch,) = cut([(0,), (1,), (2,), (3,)], 4, "right")
    noise = noise_of(batch)
    for row, start, end in samples_in(batch):
        bound = ALPHA / math.sqrt((end - start) * WIDTH)
        assert 0.5 * bound < noise[row, start:end].abs().max() <= bound + 1e-6
        assert not noise[row, end:].any()


def test_noise_changes_with_step_and_seed_and_ends_with_the_block() -> None:
    (batch,) = cut([(0,)], 1, "free")
    assert not torch.equal(noise_of(batch), noise_of(batch, step=4))
    assert not torch.equal(noise_of(batch), noise_of(batch, seed=2))
    assert not noise_of(batch, alpha=None).any()
    assert not EMBEDDINGS._forward_hooks


def test_a_model_that_does_not_embed_its_ids_is_told_apart() -> None:
    (batch,) = cut([(0,)], 1, "free")
    with pytest.raises(AssertionError, match="neftune"), EmbeddingNoise(EMBEDDINGS, ALPHA, seed=0).on(batch, 0):
        EMBEDDINGS(batch.input_ids.clone())


def test_seeds_of_different_places_differ() -> None:
    places = [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (11, 0), (1, 10)]
    assert len({seed_of(*place) for place in places}) == len(places)

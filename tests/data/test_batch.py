"""Batches: shifted targets, borders, padding, and the dealing of rows to ranks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from cut import micro_batches

from tunestudy.data.batch import IGNORED

ROWS = [(0,), (1, 2), (3,), (4,), (5, 0)]


def shifted(corpus, sample):
    """Targets of one sample by the definition."""
    start, end = int(corpus.offsets[sample]), int(corpus.offsets[sample + 1])
    ids, flags = corpus.ids[start:end].tolist(), corpus.is_target[start:end].tolist()
    return [ids[i + 1] if i + 1 < len(ids) and flags[i + 1] else IGNORED for i in range(len(ids))]


@pytest.fixture
def data(corpus):
    return corpus([4, 7, 2, 9, 5, 1])


def test_end_to_end(data):
    (batch,) = micro_batches(data, [(3, 5, 2)], rank=0, world_size=1, micro_batch=4, layout="free")
    assert batch.input_ids.shape == (1, 12)
    assert batch.cu_seqlens.tolist() == [0, 9, 10, 12] and batch.cu_seqlens.dtype is torch.int32
    assert batch.position_ids.tolist() == [[*range(9), 0, 0, 1]]
    assert batch.targets.tolist() == [[*shifted(data, 3), *shifted(data, 5), *shifted(data, 2)]]
    assert batch.attention_mask is None and batch.segment_ids is None and batch.sources is None
    assert (batch.num_tokens, batch.num_targets) == (12, 6)


def test_padded(data):
    (batch,) = micro_batches(data, [(0,), (3,)], rank=0, world_size=1, micro_batch=4, layout="right")
    assert batch.input_ids.shape == (2, 9) and batch.cu_seqlens is None and batch.segment_ids is None
    assert batch.attention_mask.tolist() == [[True] * 9, [True] * 4 + [False] * 5]
    assert batch.targets.tolist() == [shifted(data, 3), shifted(data, 0) + [IGNORED] * 5]
    assert batch.position_ids[1].tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0]
    assert batch.num_tokens == 13


def test_no_mask_where_nothing_is_padded(corpus):
    (batch,) = micro_batches(corpus([5, 5]), [(0,), (1,)], rank=0, world_size=1, micro_batch=2, layout="right")
    assert batch.attention_mask is None


def test_packs_in_padded_rows_name_their_samples(data):
    (batch,) = micro_batches(data, [(1, 2), (3,)], rank=0, world_size=1, micro_batch=2, layout="right")
    assert batch.segment_ids.tolist() == [[0] * 7 + [1] * 2, [0] * 9]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert batch.targets[0].tolist() == [*shifted(data, 1), *shifted(data, 2)]


def test_sources_per_position(corpus):
    data = corpus([2, 3], sources=[1, 0], names=("a", "b"))
    (free,) = micro_batches(data, [(0, 1)], rank=0, world_size=1, micro_batch=1, layout="free")
    (right,) = micro_batches(data, [(0,), (1,)], rank=0, world_size=1, micro_batch=2, layout="right")
    assert free.sources.tolist() == [[1, 1, 0, 0, 0]]
    assert right.sources.tolist() == [[0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("layout", ["free", "right"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_every_target_is_dealt_once_however_a_step_is_cut(data, layout, world_size, micro_batch):
    dealt = [
        micro_batches(data, ROWS, rank=rank, world_size=world_size, micro_batch=micro_batch, layout=layout)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in dealt}) == 1  # the same number of forwards on every rank
    expected = sorted(t for row in ROWS for sample in row for t in shifted(data, sample))
    found = sorted(
        int(t)
        for batches in dealt
        for b in batches
        if b.num_tokens
        for t in (b.targets if b.attention_mask is None else b.targets[b.attention_mask]).flatten()
    )
    assert found == expected
    assert sum(b.num_targets for batches in dealt for b in batches) == sum(t != IGNORED for t in expected)
    assert sum(b.num_tokens for batches in dealt for b in batches) == len(expected)


def test_a_rank_without_rows_gets_a_dummy(data):
    (batch,) = micro_batches(data, [(0,)], rank=1, world_size=2, micro_batch=4, layout="free")
    assert batch.num_tokens == batch.num_targets == 0 and (batch.targets == IGNORED).all()
    assert batch.cu_seqlens.tolist() == [0, 1]


def test_ranks_get_like_amounts(corpus):
    data = corpus(list(range(2, 66)))
    rows = [(i,) for i in range(64)]
    tokens = [
        sum(b.num_tokens for b in micro_batches(data, rows, rank=r, world_size=4, micro_batch=4, layout="right"))
        for r in range(4)
    ]
    assert max(tokens) / min(tokens) < 1.1


def test_moving_a_batch(data):
    (batch,) = micro_batches(data, [(0,), (3,)], rank=0, world_size=1, micro_batch=4, layout="right")
    moved = batch.to("meta")
    assert moved.input_ids.device.type == moved.attention_mask.device.type == "meta"
    assert moved.num_targets == batch.num_targets

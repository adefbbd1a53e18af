"""What a forward pass gets, and how a step's rows are dealt to ranks and micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.data.corpus import Corpus, gather_index

IGNORED = -100
"""The target of a position that predicts nothing."""

Row = tuple[int, ...]
"""Sample indices that share a row of a batch: one, or several when packing."""

Layout = Literal["free", "right"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch.

    Shapes: input_ids, position_ids, targets (B, T) int64; positions restart at every sample; `targets` is the token to
    predict *at* this position (already shifted, never across samples) or -100.
    Laid end to end ("free"): B = 1, cu_seqlens (S+1,) int32 are the borders of samples, nothing is padded.
    Padded ("right"): cu_seqlens is None; attention_mask (B, T) bool is False on padding, None where nothing is padded;
    segment_ids (B, T) int64 (-1 on padding) only where a row holds several samples: attention must keep them apart.
    sources (B, T) int64: the source of every position; None when the corpus has one source.
    samples (B, T) int64: which of the batch's samples, in the order of `shares_of`; None unless asked for.
    """

    input_ids: Tensor
    position_ids: Tensor
    targets: Tensor
    num_tokens: int
    """Without padding; 0 for the dummy of a rank that has no rows."""
    num_targets: int
    cu_seqlens: Tensor | None = None
    attention_mask: Tensor | None = None
    segment_ids: Tensor | None = None
    sources: Tensor | None = None
    samples: Tensor | None = None
    num_samples: int = 0

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)


def micro_batches(
    corpus: Corpus,
    rows: Sequence[Row],
    *,
    rank: int,
    world_size: int,
    micro_batch: int,
    layout: Layout,
    mark_samples: bool = False,
) -> list[Batch]:
    """This rank's share of a step, `micro_batch` rows a batch; every rank gets the same number of batches."""
    shares = shares_of(corpus, rows, rank=rank, world_size=world_size, micro_batch=micro_batch)
    make = {"free": _laid_end_to_end, "right": _padded_right}[layout]
    return [make(corpus, share, mark_samples) if share else dummy_batch(corpus, layout) for share in shares]


def shares_of(corpus: Corpus, rows: Sequence[Row], *, rank: int, world_size: int, micro_batch: int) -> list[list[Row]]:
    """The rows of each of this rank's batches; none where other ranks have more.

    Rows are sorted by length and dealt round, so that ranks get equal work and rows of a padded batch equal lengths.
    A step's gradient is a sum, so this cannot change what is learned beyond rounding.
    """
    lengths = [sum(int(corpus.lengths[sample]) for sample in row) for row in rows]
    by_length = sorted(range(len(rows)), key=lambda i: -lengths[i])
    mine = [rows[i] for i in by_length[rank::world_size]]
    rows_of_fullest_rank = -(-len(rows) // world_size)
    count = -(-rows_of_fullest_rank // micro_batch)
    return [mine[i * micro_batch : (i + 1) * micro_batch] for i in range(count)]


def dummy_batch(corpus: Corpus, layout: Layout) -> Batch:
    """One ignored token: keeps a rank without rows in step with the others."""
    zeros = torch.zeros(1, 1, dtype=torch.int64)
    return Batch(
        input_ids=zeros,
        position_ids=zeros,
        targets=torch.full_like(zeros, IGNORED),
        num_tokens=0,
        num_targets=0,
        cu_seqlens=torch.tensor([0, 1], dtype=torch.int32) if layout == "free" else None,
        sources=zeros if len(corpus.sources) > 1 else None,
    )


@dataclass(frozen=True)
class _Flat:
    """Samples laid end to end: (T,) arrays, and (S,) lengths."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    sources: NDArray[np.int64] | None
    lengths: NDArray[np.int64]

    @property
    def num_targets(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))

    @property
    def samples(self) -> NDArray[np.int64]:
        """(T,) which sample each position is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def _flat(corpus: Corpus, rows: Sequence[Row]) -> _Flat:
    samples = np.fromiter((sample for row in rows for sample in row), np.int64)
    lengths = corpus.lengths[samples]
    where = gather_index(corpus, samples)
    ids = corpus.ids[where].astype(np.int64)
    # A sample's first token is never a target, so the shift cannot reach into the next sample.
    following = np.append(corpus.is_target[where[1:]], False)
    targets = np.where(following, np.append(ids[1:], 0), IGNORED)
    starts = np.cumsum(lengths) - lengths
    sources = np.repeat(corpus.source[samples].astype(np.int64), lengths) if len(corpus.sources) > 1 else None
    return _Flat(ids, np.arange(len(ids)) - np.repeat(starts, lengths), targets, sources, lengths)


def _laid_end_to_end(corpus: Corpus, rows: Sequence[Row], mark_samples: bool = False) -> Batch:
    flat = _flat(corpus, rows)
    borders = np.concatenate([[0], np.cumsum(flat.lengths)]).astype(np.int32)
    return Batch(
        input_ids=torch.from_numpy(flat.ids)[None],
        position_ids=torch.from_numpy(flat.positions)[None],
        targets=torch.from_numpy(flat.targets)[None],
        num_tokens=len(flat.ids),
        num_targets=flat.num_targets,
        cu_seqlens=torch.from_numpy(borders),
        sources=None if flat.sources is None else torch.from_numpy(flat.sources)[None],
        samples=torch.from_numpy(flat.samples)[None] if mark_samples else None,
        num_samples=len(flat.lengths),
    )


def _padded_right(corpus: Corpus, rows: Sequence[Row], mark_samples: bool = False) -> Batch:
    flat = _flat(corpus, rows)
    samples_per_row = [len(row) for row in rows]
    row_of_sample = np.repeat(np.arange(len(rows)), samples_per_row)
    row_lengths = np.bincount(row_of_sample, weights=flat.lengths, minlength=len(rows)).astype(np.int64)
    row = np.repeat(np.arange(len(rows)), row_lengths)
    column = np.arange(len(flat.ids)) - np.repeat(np.cumsum(row_lengths) - row_lengths, row_lengths)
    shape = (len(rows), int(row_lengths.max()))

    def spread(values: NDArray[np.int64], padding: int) -> Tensor:
        grid = np.full(shape, padding, np.int64)
        grid[row, column] = values
        return torch.from_numpy(grid)

    padded = len(flat.ids) < shape[0] * shape[1]
    several = max(samples_per_row) > 1
    segment = np.repeat(np.concatenate([np.arange(n) for n in samples_per_row]), flat.lengths) if several else None
    return Batch(
        input_ids=spread(flat.ids, 0),
        position_ids=spread(flat.positions, 0),
        targets=spread(flat.targets, IGNORED),
        num_tokens=len(flat.ids),
        num_targets=flat.num_targets,
        attention_mask=spread(np.ones_like(flat.ids), 0).bool() if padded else None,
        segment_ids=None if segment is None else spread(segment, -1),
        sources=None if flat.sources is None else spread(flat.sources, 0),
        samples=spread(flat.samples, 0) if mark_samples else None,
        num_samples=len(flat.lengths),
    )

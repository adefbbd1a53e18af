"""What a forward pass gets, and how a step's rows are dealt to ranks and micro-batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.data.corpus import Corpus, gather_index
from tunestudy.data.vision import Eyes

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
    With images: pixels are named inputs of the model's forward pass; images (B, T) int64 says which of the batch's
    images a position belongs to, -1 for text; rope_positions (3, B, T) int64 where positions are of time, height and
    width.
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
    pixels: Mapping[str, Tensor] = field(default_factory=dict)
    images: Tensor | None = None
    rope_positions: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        pixels = {name: tensor.to(device, non_blocking=True) for name, tensor in self.pixels.items()}
        return replace(self, **moved, pixels=pixels)


def batch_of(
    corpus: Corpus, share: Sequence[Row], layout: Layout, *, mark_samples: bool = False, eyes: Eyes | None = None
) -> Batch:
    """One micro-batch of these rows.

    Without rows, one ignored token: it keeps a rank in step with the others. In a corpus with images, a batch without
    any gets an ignored blank one: all ranks go through the vision tower, and all of its weights get a gradient.
    """
    assert corpus.images is None or eyes is not None, "a corpus with images needs eyes"
    flat = _flat(corpus, share, eyes if corpus.images is not None else None)
    make = {"free": _laid_end_to_end, "right": _padded_right}[layout]
    return make(flat, mark_samples)


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


@dataclass(frozen=True)
class _Flat:
    """Samples laid end to end: (T,) arrays, (S,) lengths, and the row of each sample (S,)."""

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    sources: NDArray[np.int64] | None
    lengths: NDArray[np.int64]
    row_of_sample: NDArray[np.int64]
    ignored: int = 0
    """Tokens at the end that belong to no sample of the corpus."""
    seen: "_Seen | None" = None

    @property
    def num_tokens(self) -> int:
        return len(self.ids) - self.ignored

    @property
    def num_samples(self) -> int:
        """Of the corpus."""
        return len(self.lengths) - bool(self.ignored)

    @property
    def num_targets(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))

    @property
    def samples(self) -> NDArray[np.int64]:
        """(T,) which sample each position is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclass(frozen=True)
class _Seen:
    """What of a batch comes from its images: the inputs of the tower, (T,) image numbers, (3, T) positions."""

    pixels: dict[str, Tensor]
    images: NDArray[np.int64]
    rope_positions: NDArray[np.int64] | None


def _flat(corpus: Corpus, rows: Sequence[Row], eyes: Eyes | None) -> _Flat:
    samples = np.fromiter((sample for row in rows for sample in row), np.int64)
    lengths = corpus.lengths[samples]
    where = gather_index(corpus, samples)
    ids = corpus.ids[where].astype(np.int64)
    # A sample's first token is never a target, so the shift cannot reach into the next sample.
    following = np.append(corpus.is_target[where[1:]], False) if len(where) else np.zeros(0, np.bool_)
    targets = np.where(following, np.append(ids[1:], 0), IGNORED)
    row_of_sample = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    sources = np.repeat(corpus.source[samples].astype(np.int64), lengths) if len(corpus.sources) > 1 else None

    filler = _filler(corpus, samples, eyes)
    if ignored := len(filler):
        ids, lengths = np.append(ids, filler), np.append(lengths, ignored)
        targets = np.append(targets, np.full(ignored, IGNORED))
        row_of_sample = np.append(row_of_sample, len(rows))
        sources = None if sources is None else np.append(sources, np.zeros(ignored, np.int64))
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(len(ids)) - np.repeat(starts, lengths)
    seen = None if eyes is None else _look(corpus, samples, ids, lengths, eyes, filled=bool(ignored))
    return _Flat(ids, positions, targets, sources, lengths, row_of_sample, ignored, seen)


def _filler(corpus: Corpus, samples: NDArray[np.int64], eyes: Eyes | None) -> NDArray[np.int64]:
    """The ids of an ignored sample: a blank image where no sample has one, a token where there is no sample."""
    if eyes is not None and (corpus.images is None or not corpus.images.counts[samples].any()):
        return np.full(eyes.num_filler_tokens, eyes.vision.image_token, np.int64)
    return np.zeros(0 if len(samples) else 1, np.int64)


def _look(
    corpus: Corpus,
    samples: NDArray[np.int64],
    ids: NDArray[np.int64],
    lengths: NDArray[np.int64],
    eyes: Eyes,
    *,
    filled: bool,
) -> _Seen:
    assert corpus.images is not None
    facts = [corpus.images.of(int(sample)) for sample in samples]
    sizes = [[(image.width, image.height) for image in of_sample] for of_sample in facts]
    sizes += [[eyes.FILLER]] if filled else []
    counts = [eyes.vision.num_tokens(size) for of_sample in sizes for size in of_sample]
    images = np.full(len(ids), -1)
    images[ids == eyes.vision.image_token] = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(lengths)
    rope = [
        eyes.vision.rope_positions(ids[end - length : end], of_sample)
        for end, length, of_sample in zip(ends, lengths, sizes, strict=True)
    ]
    positions = [part for part in rope if part is not None]
    pixels = eyes.pixels([image for of_sample in facts for image in of_sample], filled=filled)
    return _Seen(pixels, images, np.concatenate(positions, axis=1) if positions else None)


def _laid_end_to_end(flat: _Flat, mark_samples: bool) -> Batch:
    borders = np.concatenate([[0], np.cumsum(flat.lengths)]).astype(np.int32)

    def row(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values)[None]

    seen = flat.seen
    rope = None if seen is None or seen.rope_positions is None else torch.from_numpy(seen.rope_positions)[:, None]
    return Batch(
        input_ids=row(flat.ids),
        position_ids=row(flat.positions),
        targets=row(flat.targets),
        num_tokens=flat.num_tokens,
        num_targets=flat.num_targets,
        cu_seqlens=torch.from_numpy(borders),
        sources=None if flat.sources is None else row(flat.sources),
        samples=row(flat.samples) if mark_samples else None,
        num_samples=flat.num_samples,
        pixels={} if seen is None else seen.pixels,
        images=None if seen is None else row(seen.images),
        rope_positions=rope,
    )


def _padded_right(flat: _Flat, mark_samples: bool) -> Batch:
    row_lengths = np.bincount(flat.row_of_sample, weights=flat.lengths).astype(np.int64)
    row = np.repeat(np.arange(len(row_lengths)), row_lengths)
    column = np.arange(len(flat.ids)) - np.repeat(np.cumsum(row_lengths) - row_lengths, row_lengths)
    shape = (len(row_lengths), int(row_lengths.max()))

    def spread(values: NDArray[np.int64], padding: int) -> Tensor:
        grid = np.full(shape, padding, np.int64)
        grid[row, column] = values
        return torch.from_numpy(grid)

    padded = len(flat.ids) < shape[0] * shape[1]
    in_row = np.bincount(flat.row_of_sample)
    segment = np.repeat(np.concatenate([np.arange(n) for n in in_row]), flat.lengths) if in_row.max() > 1 else None
    seen = flat.seen
    rope = None if seen is None else seen.rope_positions
    return Batch(
        input_ids=spread(flat.ids, 0),
        position_ids=spread(flat.positions, 0),
        targets=spread(flat.targets, IGNORED),
        num_tokens=flat.num_tokens,
        num_targets=flat.num_targets,
        attention_mask=spread(np.ones_like(flat.ids), 0).bool() if padded else None,
        segment_ids=None if segment is None else spread(segment, -1),
        sources=None if flat.sources is None else spread(flat.sources, 0),
        samples=spread(flat.samples, 0) if mark_samples else None,
        num_samples=flat.num_samples,
        pixels={} if seen is None else seen.pixels,
        images=None if seen is None else spread(seen.images, -1),
        rope_positions=None if rope is None else torch.stack([spread(one, 0) for one in rope]),
    )

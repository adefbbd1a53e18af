"""The k largest values of a tensor by magnitude, exactly and without sorting it: counted by their bits.

Magnitudes of floats compare like their bits as integers. The upper 16 bits of all are counted, which tells the bucket
that holds the k-th largest; then the lower 16 bits of that bucket's, which tell the value itself. Memory and time are
linear, and the counts of parts add up in any order.
"""

import threading
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.merge.parts import Part

HALF = 16
BUCKETS = 1 << 15
"""Upper halves of a float32 without its sign."""


@dataclass(frozen=True)
class Few:
    """Counts of the lower halves that occur in one part; small, since there is one of these for each."""

    halves: NDArray[np.uint16]
    counts: NDArray[np.int32]

    def of(self, half: int) -> int:
        return int(self.counts[self.halves == half].sum())


class Largest:
    """Found in two looks: `rough` and `fine` of each part, then `apply`. Any thread may do any part."""

    def __init__(self, total: int, density: float) -> None:
        self.count = max(1, int(density * total))
        self.all = self.count >= total
        self._lock = threading.Lock()
        self._counts = np.zeros(BUCKETS, dtype=np.int64)
        self._bucket = 0
        self._in_bucket = self.count
        """How many of the threshold's bucket are kept."""
        self._threshold = 0.0
        self._spare: list[tuple[int, int]] = []
        """Per part: how many values are at the threshold, and how many of these are kept."""

    def rough(self, part: Part, difference: Tensor) -> None:
        """Count the upper halves."""
        counts = torch.bincount(_upper(part, difference), minlength=BUCKETS).numpy()
        with self._lock:
            self._counts += counts

    def settle_rough(self) -> None:
        """All parts were counted."""
        self._bucket, self._in_bucket = _reach(self._counts, self.count)

    def fine(self, part: Part, difference: Tensor) -> Few:
        """Counts of the lower halves in the threshold's bucket."""
        inside = np.flatnonzero(_upper(part, difference).numpy() == self._bucket)
        lower = (difference.view(torch.int32).numpy()[inside] & 0xFFFF).astype(np.uint16)
        halves, counts = np.unique(lower, return_counts=True)
        return Few(halves, counts.astype(np.int32))

    def settle_fine(self, found: list[Few]) -> None:
        """found: of all parts in their order."""
        counts = np.zeros(1 << HALF, dtype=np.int64)
        for few in found:
            counts[few.halves] += few.counts
        lower, left = _reach(counts, self._in_bucket)
        self._threshold = float(np.array([self._bucket << HALF | lower], dtype=np.int32).view(np.float32)[0])
        for few in found:
            there = few.of(lower)
            kept = min(there, left)
            self._spare.append((there, kept))
            left -= kept

    def apply(self, part: Part, difference: Tensor) -> Tensor:
        """Set all but the largest to zero, in place."""
        if self.all or self._threshold == 0:  # zeros at the threshold are zeros either way
            return difference
        there, kept = self._spare[part.index]
        below = float(np.nextafter(np.float32(self._threshold), np.float32(0)))
        bound = self._threshold if kept == 0 else below
        torch.ops.aten.hardshrink.out(difference, bound, out=difference)  # |x| ≤ bound becomes 0, in one pass
        if 0 < kept < there:
            values = difference.numpy()
            values[np.flatnonzero(np.abs(values) == np.float32(self._threshold))[kept:]] = 0
        return difference


def _upper(part: Part, difference: Tensor) -> Tensor:
    """Upper halves of the magnitudes, (count,) int16."""
    bits = part.buffers.get("bits", part.count, torch.int32)
    magnitudes = torch.abs(difference, out=part.scratch("magnitudes"))
    np.right_shift(magnitudes.view(torch.int32).numpy(), HALF, out=bits.numpy())
    return part.buffers.get("upper", part.count, torch.int16).copy_(bits)


def _reach(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """The index at which counts, summed up from the top, reach `wanted`, and how many of its own it takes."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, wanted))
    before = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, wanted - before

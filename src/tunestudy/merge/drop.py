"""DARE's choice of what to drop: a pure function of (seed, model, tensor, index of the value), whatever the threads."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tunestudy.merge.parts import PART, Part, Task

PER_BLOCK = 32
"""8-bit draws that one step of Philox's counter gives (4 × 64 bits)."""
assert PART % PER_BLOCK == 0, "parts begin with a block"


@dataclass(frozen=True)
class Drop:
    """Of one model's tensor."""

    density: float
    key: int
    """128 bits. Philox is a block cipher on counters: any run of its draws can be had without those before it.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"."""
    whole: int = field(init=False)
    rest: int = field(init=False)

    def __post_init__(self) -> None:
        whole, rest = divmod(self.density * 2**8, 1)
        object.__setattr__(self, "whole", int(whole))
        object.__setattr__(self, "rest", int(rest * 2.0**63))

    def apply(self, part: Part, difference: Tensor) -> Tensor:
        """Set dropped values to zero, in place; nothing is rescaled."""
        if self.density == 1:
            return difference
        kept = torch.from_numpy(self.kept(part.start, part.count).view(np.uint8))
        return difference.mul_(part.scratch("kept").copy_(kept))

    def kept(self, start: int, count: int) -> NDArray[np.bool_]:
        """Which of the values from `start` on are kept, (count,), each with probability `density`.

        start: a multiple of 32. 8 bits decide; where they are exactly the bound, 63 more, so that any density holds.
        """
        assert start % PER_BLOCK == 0, start
        blocks = -(-count // PER_BLOCK)
        philox = np.random.Philox(key=self.key, counter=start // PER_BLOCK)
        words = np.random.Generator(philox).integers(0, 2**64 - 1, 4 * blocks, dtype=np.uint64, endpoint=True)
        draws = words.astype("<u8", copy=False).view(np.uint8)[:count]
        kept = draws < self.whole
        undecided = np.flatnonzero(draws == self.whole)
        if undecided.size:
            kept[undecided] = (_mixed(undecided.astype(np.uint64) + np.uint64(start), self.key) >> 1) < self.rest
        return kept


def drops_of(task: Task) -> dict[str, Drop]:
    """Model → what it drops of this tensor."""
    return {model: Drop(share, _key(task.seed, model, task.name)) for model, share in task.densities.items()}


def _key(seed: int, model: str, tensor: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{model}\0{tensor}".encode()).digest()
    return int.from_bytes(digest[:16], "little")


def _mixed(indices: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """64 bits of each index. Source: the finaliser of SplitMix64, Steele et al. 2014, doi:10.1145/2714064.2660195."""
    mixed = indices * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key & (2**64 - 1))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))

"""Whether two images show the same, whatever their encoding and size: small pictures of them, compared cell by cell.

A small picture has 64 × 64 cells of brightness and 16 × 16 of both colours, and is compared on a coarser grid where the
smaller image has fewer pixels than that. Two images show the same when no cell differs by more than re-encoding and
resizing make it differ: a chart with the same frame but another digit has a cell that does.

Candidates are found by means over 16 × 16 cells. Means of cells differ by no more than the cells do (Jensen's
inequality), so this loses none: Faloutsos et al. 1994, Fast Subsequence Matching in Time-Series Databases, sec. 3.
"""

import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tunestudy.data.images import MAX_PIXELS, ImageBytes, decode
from tunestudy.data.rejected import Rejected

CELLS, COLOUR_CELLS = 64, 16
LENGTH = CELLS**2 + 2 * COLOUR_CELLS**2
"""Bytes of a small picture."""

DRAFT = (2 * CELLS, 2 * CELLS)
"""A JPEG is decoded at the smallest scale that has at least these sides."""

COARSE = 16
BLOCK = 1024
"""Pictures on either side of one product of matrices: 4 MiB each."""

GRIDS = ((112, 64, 24.0), (56, 32, 30.0), (28, 16, 30.0))
"""Shortest side of either image in pixels, cells a side, most grey levels by which a cell may differ. Measured in
benchmarks/contamination.py. Images with a shorter side must be equal pixel by pixel."""

MOST_AROUND = 0.5
"""What the mean over 3 × 3 cells may differ by, as a share of what one cell may: noise cancels out, other content does
not."""
MOST_COLOUR = 1.25
"""What a colour cell may differ by, likewise: JPEG halves the resolution of colours."""
MOST_RMS, LEAST_RMS = 0.2, 0.6
"""Root mean square of the difference, as a share of the picture's standard deviation; and what is always allowed."""
MOST_COARSE_RMS, MOST_COARSE = 5.0, 20.0
"""Of means over 16 × 16 cells: root mean square of the difference, and by how much one may differ."""
PAIRS, FINE_PAIRS = 8192, 512
"""Candidates looked at in one go, on the coarse grid and on the finest: 8 and 4 MiB each of either side."""
MOST_SHAPE = 0.04
"""Relative difference of width ÷ height, beyond one pixel's rounding."""
MOST_SCALE = 2.6
"""Ratio of both heights."""

AHEAD = 64
"""Images whose small pictures are made ahead of being asked for: memory stays bounded."""
MOST_THREADS = 8

Pictures = NDArray[np.uint8]
Small = tuple[Pictures, tuple[int, int]]
"""A small picture (LENGTH,), and the image's upright width and height in pixels."""

UNSEEN = (0, 0)
"""The size of an image that cannot be decoded: it looks like no other."""


@dataclass(frozen=True, eq=False)
class Looks:
    """Small pictures (N, LENGTH) uint8, in memory or mapped from a file, and (N, 2) int32: upright width and height."""

    pictures: Pictures
    sizes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.sizes)


def small_picture(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Small:
    """Of an encoded image. Raises Rejected."""
    from PIL import Image

    size = _size(data, max_pixels)
    image = decode(data, max_pixels=max_pixels, draft=DRAFT)
    small = image.resize((CELLS, CELLS), Image.Resampling.BILINEAR).convert("YCbCr")
    brightness, *colours = (np.asarray(channel) for channel in small.split())
    cut = CELLS // COLOUR_CELLS
    means = [
        colour.reshape(COLOUR_CELLS, cut, COLOUR_CELLS, cut).mean((1, 3)).round().astype(np.uint8) for colour in colours
    ]
    upright = size if (size[0] >= size[1]) == (image.width >= image.height) else size[::-1]
    return np.concatenate([brightness.ravel(), *(mean.ravel() for mean in means)]), upright


class SmallPictures:
    """Small pictures of many images in their order, made by threads: Pillow leaves the interpreter to others while it
    decodes. Memory holds the bytes of some `AHEAD` images."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._waiting: deque[Future[Small]] = deque()

    def __enter__(self) -> Self:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._pool = ThreadPoolExecutor(min(MOST_THREADS, cores or 1))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ask(self, images: Iterable[ImageBytes]) -> None:
        self._waiting.extend(self._pool.submit(_small, image, self._max_pixels) for image in images)

    def made(self) -> Iterator[Small]:
        """The next ones, while more than `AHEAD` are asked for."""
        while len(self._waiting) > AHEAD:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[Small]:
        """All that are left."""
        while self._waiting:
            yield self._waiting.popleft().result()


def look_at(images: Iterable[ImageBytes], *, max_pixels: int = MAX_PIXELS) -> Looks:
    """Small pictures of images, in their order; what cannot be read or decoded has the size `UNSEEN`."""
    found: list[Small] = []
    with SmallPictures(max_pixels) as pictures:
        for image in images:
            pictures.ask([image])
            found.extend(pictures.made())
        found.extend(pictures.rest())
    stacked = np.stack([picture for picture, _ in found]) if found else np.empty((0, LENGTH), np.uint8)
    return Looks(stacked, np.array([size for _, size in found], np.int32).reshape(-1, 2))


def alike(asked: Looks, known: Looks) -> Iterator[tuple[int, int]]:
    """Every (number of an asked image, number of a known one) that show the same. Memory is bounded by `BLOCK`."""
    for first in range(0, len(asked), BLOCK):
        part = asked.pictures[first : first + BLOCK]
        coarse, spread = _coarse(part), _spread(part)
        for start in range(0, len(known), BLOCK):
            for pairs in _near(coarse, spread, _coarse(known.pictures[start : start + BLOCK])):
                one, other = first + pairs[:, 0], start + pairs[:, 1]
                for i, j in pairs[_fine(asked, one, known, other)].tolist():
                    if same(asked, first + i, known, start + j):
                        yield first + i, start + j


def same(asked: Looks, i: int, known: Looks, j: int) -> bool:
    """Whether image i of `asked` shows what image j of `known` does."""
    sides = asked.sizes[i], known.sizes[j]
    if not _same_shape(*sides):
        return False
    grid = next((grid for grid in GRIDS if min(*sides[0], *sides[1]) >= grid[0]), None)
    one, other = (looks.pictures[n].astype(np.float32) for looks, n in ((asked, i), (known, j)))
    if grid is None:
        return bool((sides[0] == sides[1]).all() and np.abs(one - other).max() <= 1)
    _, cells, most = grid
    change = _averaged((one - other)[: CELLS**2].reshape(CELLS, CELLS), cells)
    colours = (one - other)[CELLS**2 :]
    return bool(
        np.abs(change).max() <= most
        and np.abs(_around(change)).max() <= MOST_AROUND * most
        and np.abs(colours).max() <= MOST_COLOUR * most
        and float(np.sqrt(np.square(change).mean())) <= LEAST_RMS + MOST_RMS * float(one[: CELLS**2].std())
    )


def _small(image: ImageBytes, max_pixels: int) -> Small:
    try:
        return small_picture(image.read(), max_pixels=max_pixels)
    except Rejected:
        return np.zeros(LENGTH, np.uint8), UNSEEN


def _size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height as the file says; a draft is smaller. (0, 0) for what cannot be opened: `decode` says why."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size if image.width * image.height <= max_pixels else (0, 0)
    except Exception:  # noqa: BLE001 - whatever a broken file does
        return 0, 0


def _coarse(pictures: Pictures) -> NDArray[np.float32]:
    """(N, 256): mean brightness of 16 × 16 cells around middle grey."""
    cut = CELLS // COARSE
    cells = pictures[:, : CELLS**2].reshape(-1, COARSE, cut, COARSE, cut).mean((2, 4), dtype=np.float32)
    return np.asarray(cells.reshape(len(pictures), -1) - np.float32(128), np.float32)


def _spread(pictures: Pictures) -> NDArray[np.float32]:
    """(N,) standard deviation of brightness."""
    return np.asarray(pictures[:, : CELLS**2].std(1, dtype=np.float32))


def _near(
    asked: NDArray[np.float32], spread: NDArray[np.float32], known: NDArray[np.float32]
) -> Iterator[NDArray[np.int64]]:
    """(P, 2): pairs whose coarse cells differ by so little that the fine ones may be alike."""
    squares = (asked**2).sum(1)[:, None] + (known**2).sum(1)[None, :] - 2 * asked @ known.T
    limit = np.minimum(LEAST_RMS + MOST_RMS * spread, MOST_COARSE_RMS)
    near = np.argwhere(squares / asked.shape[1] <= (limit**2 + 0.01)[:, None])  # 0.01: rounding of fp32
    for start in range(0, len(near), PAIRS):
        pairs = near[start : start + PAIRS]
        change = np.abs(asked[pairs[:, 0]] - known[pairs[:, 1]]).max(1)
        yield pairs[change <= MOST_COARSE]


def _fine(asked: Looks, i: NDArray[np.int64], known: Looks, j: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,): whether no cell of the finest grid differs too much, for pairs that are compared on it; True for others."""
    smallest, cells, most = GRIDS[0]
    found = np.ones(len(i), np.bool_)
    large = np.flatnonzero(np.minimum(asked.sizes[i].min(1), known.sizes[j].min(1)) >= smallest)
    for start in range(0, len(large), FINE_PAIRS):
        part = large[start : start + FINE_PAIRS]
        one, other = (looks.pictures[n[part], : cells**2].astype(np.int16) for looks, n in ((asked, i), (known, j)))
        found[part] = np.abs(one - other).max(1) <= most
    return found


def _same_shape(one: NDArray[np.int32], other: NDArray[np.int32]) -> bool:
    (w, h), (v, g) = one.tolist(), other.tolist()
    if min(w, h, v, g) < 1 or max(h, g) > MOST_SCALE * min(h, g):
        return False
    rounding = 1 / min(w, v) + 1 / min(h, g)
    return bool(abs(w * g / (h * v) - 1) <= MOST_SHAPE + rounding)


def _averaged(cells: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    cut = len(cells) // side
    return np.asarray(cells.reshape(side, cut, side, cut).mean((1, 3)))


def _around(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over every cell and its neighbours; those at the edge count for those beyond it."""
    wide = np.pad(cells, 1, mode="edge")
    side = len(cells)
    parts = [wide[i : i + side, j : j + side] for i in range(3) for j in range(3)]
    return np.asarray(sum(parts) / np.float32(9))

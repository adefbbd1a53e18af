"""Packing: fill rows of `max_length` tokens with whole samples.

Best fit by falling length inside windows of the epoch's order (Johnson 1974), all windows at once in numpy.
"""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

WINDOW = 1024
"""Samples that are packed together: waste falls with the window, but so does the randomness of an order."""

WINDOWS_AT_ONCE = 256
"""Keeps the table of open rows in a core's cache."""


def pack(
    lengths: Indices, max_length: int, images: Indices | None = None, max_images: int | None = None
) -> tuple[Indices, Indices]:
    """Rows for samples of these lengths (N,), each at most `max_length`.

    images (N,): how many each sample has; a row holds at most `max_images`, or one sample that has more.
    Returns (order (N,), borders (R+1,)): row r holds samples order[borders[r]:borders[r+1]], in their given order.
    Rows follow the position of their earliest sample.
    """
    assert len(lengths) == 0 or lengths.max() <= max_length
    if images is None or max_images is None:
        images, max_images = np.zeros_like(lengths), 0
    slots = np.minimum(images, max_images)
    starts = range(0, len(lengths), WINDOW * WINDOWS_AT_ONCE)
    parts = [slice(start, start + WINDOW * WINDOWS_AT_ONCE) for start in starts]
    rows = [_pack_windows(lengths[part], slots[part], max_length, max_images) for part in parts]
    offsets = np.cumsum([0, *(int(part.max()) + 1 for part in rows)])
    row = np.concatenate([part + offset for part, offset in zip(rows, offsets, strict=False)]) if rows else lengths
    order = np.argsort(row, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(row))]).astype(np.int64)


def _pack_windows(lengths: Indices, images: Indices, max_length: int, max_images: int) -> Indices:
    """(N,) the row of every sample; rows are numbered by window, then by their earliest sample."""
    width = min(WINDOW, len(lengths))
    windows = -(-len(lengths) // width)
    table, of_images = np.zeros((2, windows, width), np.int64)  # missing samples of the last window have length 0
    table.reshape(-1)[: len(lengths)] = lengths
    of_images.reshape(-1)[: len(lengths)] = images
    falling = np.argsort(-table, axis=1, kind="stable")
    sizes, slots = (np.take_along_axis(values, falling, axis=1) for values in (table, of_images))
    rows = _best_fit(sizes, slots, max_length, max_images)
    row = np.empty_like(rows)
    np.put_along_axis(row, falling, rows, axis=1)
    flat = (row + np.arange(windows)[:, None] * width).reshape(-1)[: len(lengths)]
    return _numbered_by_first(flat)


def _best_fit(falling: Indices, images: Indices, max_length: int, max_images: int) -> Indices:
    """(W, width) the open row with the least room that still takes the sample; lengths fall along each window."""
    windows, count = falling.shape
    each = np.arange(windows)
    room = np.full((windows, 16), max_length, np.int32)
    slots = np.full((windows, 16), max_images, np.int32)
    rows = np.zeros((windows, count), np.int64)
    for i in range(count):
        length = falling[:, i]
        takes = (room >= length[:, None]) & (slots >= images[:, i, None])
        fits = np.where(takes, room, max_length + 1)
        chosen = fits.argmin(axis=1)  # ties: the row opened first; an untouched row always fits
        rows[:, i] = chosen
        room[each, chosen] -= length.astype(np.int32)
        slots[each, chosen] -= images[:, i].astype(np.int32)
        if chosen.max() >= room.shape[1] - 2:
            more = ((0, 0), (0, room.shape[1]))
            room = np.pad(room, more, constant_values=max_length)
            slots = np.pad(slots, more, constant_values=max_images)
    return rows


def _numbered_by_first(row: Indices) -> Indices:
    """Row names replaced by 0, 1, … in the order in which they first occur."""
    _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]

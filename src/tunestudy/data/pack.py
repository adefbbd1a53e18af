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


def pack(lengths: Indices, max_length: int) -> tuple[Indices, Indices]:
    """Rows for samples of these lengths (N,), each at most `max_length`.

    Returns (order (N,), borders (R+1,)): row r holds samples order[borders[r]:borders[r+1]], in their given order.
    Rows follow the position of their earliest sample.
    """
    assert len(lengths) == 0 or lengths.max() <= max_length
    rows = [
        _pack_windows(lengths[start : start + WINDOW * WINDOWS_AT_ONCE], max_length)
        for start in range(0, len(lengths), WINDOW * WINDOWS_AT_ONCE)
    ]
    offsets = np.cumsum([0, *(int(part.max()) + 1 for part in rows)])
    row = np.concatenate([part + offset for part, offset in zip(rows, offsets, strict=False)]) if rows else lengths
    order = np.argsort(row, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(row))]).astype(np.int64)


def _pack_windows(lengths: Indices, max_length: int) -> Indices:
    """(N,) the row of every sample; rows are numbered by window, then by their earliest sample."""
    width = min(WINDOW, len(lengths))
    windows = -(-len(lengths) // width)
    table = np.zeros((windows, width), np.int64)  # missing samples of the last window have length 0
    table.reshape(-1)[: len(lengths)] = lengths
    falling = np.argsort(-table, axis=1, kind="stable")
    rows = _best_fit(np.take_along_axis(table, falling, axis=1), max_length)
    row = np.empty_like(rows)
    np.put_along_axis(row, falling, rows, axis=1)
    flat = (row + np.arange(windows)[:, None] * width).reshape(-1)[: len(lengths)]
    return _numbered_by_first(flat)


def _best_fit(falling: Indices, max_length: int) -> Indices:
    """(W, width) the open row with the least room that still takes the sample; lengths fall along each window."""
    windows, count = falling.shape
    each = np.arange(windows)
    room = np.full((windows, 16), max_length, np.int32)
    rows = np.zeros((windows, count), np.int64)
    for i in range(count):
        length = falling[:, i]
        fits = np.where(room >= length[:, None], room, max_length + 1)
        chosen = fits.argmin(axis=1)  # ties: the row opened first; an untouched row always fits
        rows[:, i] = chosen
        room[each, chosen] -= length.astype(np.int32)
        if chosen.max() >= room.shape[1] - 2:
            room = np.pad(room, ((0, 0), (0, room.shape[1])), constant_values=max_length)
    return rows


def _numbered_by_first(row: Indices) -> Indices:
    """Row names replaced by 0, 1, … in the order in which they first occur."""
    _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]

"""Packing: rows that hold whole samples, no more than fit, with little waste."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.data import pack as packing
from tunestudy.data.pack import pack


def rows_of(order, borders):
    return [order[a:b].tolist() for a, b in pairwise(borders)]


@given(st.lists(st.integers(1, 50), max_size=300))
@settings(max_examples=60, deadline=None)
def test_every_sample_in_one_row_and_no_row_too_long(lengths):
    order, borders = pack(np.array(lengths, np.int64), 50)
    rows = rows_of(order, borders)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    assert all(row == sorted(row) for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_it_is_best_fit_by_falling_length(lengths):
    """Against the plain definition, one sample at a time."""
    room, members = [], []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [row for row in range(len(room)) if room[row] >= lengths[i]]
        row = min(fitting, key=lambda row: room[row]) if fitting else len(room)
        if not fitting:
            room.append(50)
            members.append([])
        room[row] -= lengths[i]
        members[row].append(i)
    assert sorted(map(sorted, members)) == sorted(rows_of(*pack(np.array(lengths, np.int64), 50)))


def test_little_waste_on_ragged_lengths():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.5, 1, 5000), 16, 1024).astype(np.int64)
    _, borders = pack(lengths, 1024)
    assert 1 - lengths.sum() / ((len(borders) - 1) * 1024) < 0.02


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 23])
def test_windows_do_not_mix(monkeypatch, count):
    monkeypatch.setattr(packing, "WINDOW", 8)
    monkeypatch.setattr(packing, "WINDOWS_AT_ONCE", 2)
    for row in rows_of(*pack(np.full(count, 3, np.int64), 9)):
        assert len({sample // 8 for sample in row}) == 1


def test_nothing_to_pack():
    order, borders = pack(np.zeros(0, np.int64), 10)
    assert len(order) == 0 and borders.tolist() == [0]


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 5)), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_rows_hold_no_more_images_than_they_may(samples):
    lengths, images = (np.array(column, np.int64) for column in zip(*samples, strict=True))
    order, borders = pack(lengths, 50, images, 3)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    for row in rows_of(order, borders):
        pictured = [int(images[i]) for i in row if images[i]]
        assert sum(lengths[i] for i in row) <= 50
        assert sum(pictured) <= 3 or len(pictured) == 1

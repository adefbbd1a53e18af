"""Batches hold what fits, and chunks depend on the rows alone."""

import random
from itertools import pairwise

import pytest

from tunestudy.bench.batches import BATCH_TOKENS, CPU_TOKENS, chunks, cut, cut_by
from tunestudy.bench.tasks import Row
from tunestudy.config.benchmark import ExactMatch
from tunestudy.data.images import ImageFacts


@pytest.mark.parametrize("max_size", [None, 5])
def test_batches_hold_every_item_once_within_the_budget_longest_first(max_size):
    lengths = [random.Random(1).randint(0, 400) for _ in range(200)] + [5000]
    batches = list(cut(lengths, max_tokens=1000, max_size=max_size))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(order, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 1000
        assert max_size is None or len(batch) <= max_size
    assert len(batches) > 10


def image(name):
    return ImageFacts("store", 0, 1, name, 8, 8)


def rows_of_all_kinds():
    rng = random.Random(2)
    rows = [Row(f"t{i:03}", (1,) * rng.randint(1, 90), "") for i in range(60)]
    rows += [Row(f"i{i:03}", (1,) * rng.randint(1, 90), "", images=(image(f"{i % 7}"),)) for i in range(60)]
    for group in range(10):
        rows += [Row(f"g{group}#{i}", (1,) * rng.randint(1, 90), "", group=f"g{group}") for i in range(4)]
    return rows


@pytest.mark.parametrize("settings", [{"batch_tokens": 300}, {"batch_size": 6}, {}])
def test_chunks_hold_every_row_once_and_groups_together_whatever_the_order(settings):
    rows, benchmark = rows_of_all_kinds(), ExactMatch(dataset="d", **settings)
    parted = chunks(rows, benchmark)
    assert sorted(row.id for chunk in parted for row in chunk) == sorted(row.id for row in rows)
    for group in range(10):
        assert sum(any(row.group == f"g{group}" for row in chunk) for chunk in parted) == 1
    shuffled = random.Random(3).sample(rows, len(rows))
    assert chunks(shuffled, benchmark) == parted
    for chunk in parted:
        one_bundle = len({row.group or row.id for row in chunk}) == 1
        widest = max(len(row.prompt_ids) for row in chunk)
        assert one_bundle or len(chunk) * widest <= (benchmark.batch_tokens or BATCH_TOKENS)
        assert benchmark.batch_size is None or len(chunk) <= benchmark.batch_size


def test_rows_of_the_same_image_follow_each_other():
    rows = [row for row in rows_of_all_kinds() if row.images]
    order = [row.images[0].sha256 for chunk in chunks(rows, ExactMatch(dataset="d", batch_size=5)) for row in chunk]
    assert sum(a != b for a, b in pairwise(order)) == 6


@pytest.mark.parametrize("settings", [{}, {"batch_tokens": 300}, {"batch_size": 6}, {"batch_size": 1}])
def test_batches_of_a_job_that_ran_out_of_memory_are_so_many_times_smaller(settings):
    benchmark = ExactMatch(dataset="d", **settings)
    smaller = cut_by(benchmark, 4, "cuda")
    assert smaller.batch_tokens == (benchmark.batch_tokens or BATCH_TOKENS) // 4
    assert cut_by(benchmark, 4, "cpu").batch_tokens == (benchmark.batch_tokens or CPU_TOKENS) // 4
    assert smaller.batch_size == (None if benchmark.batch_size is None else max(1, benchmark.batch_size // 4))
    assert cut_by(benchmark, 1, "cuda") is benchmark

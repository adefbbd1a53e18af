"""Curricula: the same samples in every arm, places that only the data decide, and reasons for what has none."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_corpus import corpus_of

from tunestudy.config.data import DataSettings, FileDataset, MixturePart
from tunestudy.config.errors import StudyError
from tunestudy.config.order import ColumnOrder, order_words
from tunestudy.data.corpus import Corpus, Texts
from tunestudy.data.curriculum import column_values, natural, places_of, read_values, write_values
from tunestudy.data.drawn import multiset_digests, samples_drawn
from tunestudy.data.order import Schedule
from tunestudy.data.pack import WINDOW
from tunestudy.data.select import is_held_out

PART = MixturePart(dataset="a")


def by_column(**options):
    return ColumnOrder(by="column", column="c", **options)


def named(count, names=None, length=4, sources=("a",), source=()):
    data = corpus_of(
        (([1] * length, [False] + [True] * (length - 1)) for _ in range(count)), sources=sources, source=source
    )
    texts = Texts.of(names or [f"r{i:04d}" for i in range(count)])
    return Corpus(data.ids, data.is_target, data.offsets, data.source, data.content, texts, data.sources)


def scheduled(corpus, order, values=None, *, seed=1, size=8, **options):
    stage = DataSettings(**{"data": (PART,), "max_length": 64, "order": order, **options})
    places = None if isinstance(order, str) else places_of(values, corpus, order)
    return Schedule(corpus, stage, seed, size, places)


def epoch_of(schedule, epoch=0):
    first = schedule.first_step_of_epoch(epoch)
    steps = range(first, first + schedule.steps_in_epoch(epoch))
    return [sample for step in steps for row in schedule.rows_of_step(step) for sample in row]


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=40),
    st.lists(st.one_of(st.none(), st.sampled_from(["a1", "a10", "a2", "b"])), min_size=1, max_size=40),
)


@given(values=VALUES, descending=st.booleans(), shuffled=st.randoms())
@settings(max_examples=150, deadline=None)
def test_places_are_pythons_sort_and_know_no_order_of_records(values, descending, shuffled):
    names = [f"id{i}" for i in range(len(values))]
    shuffled.shuffle(names)
    data = named(len(values), names)
    direction = "descending" if descending else "ascending"
    places = places_of(values, data, by_column(direction=direction))
    assert [place for value, place in zip(values, places, strict=True) if value is None] == [-1] * values.count(None)

    key = natural if any(isinstance(value, str) for value in values) else (lambda value: value)
    known = sorted((names[i], values[i]) for i in range(len(values)) if values[i] is not None)
    # ties stay by id: Python's sort is stable, also in reverse
    expected = [name for name, _ in sorted(known, key=lambda pair: key(pair[1]), reverse=descending)]
    found = sorted((place, names[i]) for i, place in enumerate(places) if place >= 0)
    assert [name for _, name in found] == expected
    assert [place for place, _ in found] == list(range(len(expected)))


def test_text_sorts_as_people_count():
    assert natural("9" * 5000) < natural("1" + "0" * 5000)
    values = ["level 10", "level 2", "level 1", "Level 3", "level 02", "level"]
    assert sorted(values, key=natural) == ["Level 3", "level", "level 1", "level 02", "level 2", "level 10"]


ORDERS = ["shuffle", "sequential", "length_grouped", by_column(), by_column(direction="descending", buckets=4)]


@pytest.mark.parametrize("packing", [False, True])
def test_every_arm_sees_the_same_multiset(packing):
    data = named(101)
    values = np.random.default_rng(0).integers(0, 9, 101).tolist()
    arms = [scheduled(data, order, values, packing=packing) for order in ORDERS if not (packing and order == ORDERS[2])]
    for epoch in range(2):
        assert all(sorted(epoch_of(arm, epoch)) == list(range(101)) for arm in arms)
    told = [samples_drawn(arm, data, arm.total_steps(2, None)) for arm in arms]
    assert all(facts == told[0] for facts in told)
    assert (told[0]["of_epoch"], told[0]["of_stage"]) == (101, 202)


def test_strict_order_walks_again_each_epoch():
    data, values = named(30), np.random.default_rng(1).permutation(30).tolist()
    easy, hard = (scheduled(data, by_column(direction=d), values) for d in ("ascending", "descending"))
    expected = np.argsort(values).tolist()
    assert epoch_of(easy, 0) == epoch_of(easy, 1) == expected
    assert epoch_of(hard, 0) == expected[::-1]
    assert epoch_of(scheduled(data, by_column(), values, seed=2)) == expected


def test_buckets_are_shuffled_inside_and_stand_in_order():
    data, values = named(31), np.random.default_rng(1).permutation(31).tolist()
    schedule = scheduled(data, by_column(buckets=3), values)
    expected = np.array_split(np.argsort(values), 3)
    orders = []
    for epoch in range(2):
        walked = np.split(np.array(epoch_of(schedule, epoch)), np.cumsum([len(part) for part in expected])[:-1])
        assert all(
            set(got.tolist()) == set(want.tolist()) and got.tolist() != want.tolist()
            for got, want in zip(walked, expected, strict=True)
        )
        orders.append(np.concatenate(walked).tolist())
    assert orders[0] != orders[1]
    assert epoch_of(scheduled(data, by_column(buckets=3), values, seed=2)) != orders[0]
    assert epoch_of(scheduled(data, by_column(buckets=99), values)) == np.argsort(values).tolist()


@given(count=st.integers(3, 60), cuts=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_stages_that_share_their_cuts_see_everything_once(count, cuts):
    data, values = named(count), np.random.default_rng(count).integers(0, 4, count).tolist()
    borders = [0.0, *sorted(cuts), 1.0]
    parts = [places_of(values, data, by_column(take=pair)) >= 0 for pair in pairwise(borders)]
    assert np.sum(parts, axis=0).tolist() == [1] * count
    whole = places_of(values, data, by_column())
    seen = [whole[part] for part in parts if part.any()]
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(count))
    assert all(low.max() < high.min() for low, high in pairwise(seen))


def test_digests_add_up_over_stages():
    data, values = named(30), list(range(30))
    thirds = [by_column(take=(a / 3, (a + 1) / 3), buckets=1) for a in range(3)]
    stages = [scheduled(data, order, values, size=4) for order in thirds]
    told = [samples_drawn(stage, data, stage.total_steps(2, None)) for stage in stages]
    whole = scheduled(data, "shuffle", size=16)
    once = samples_drawn(whole, data, whole.total_steps(2, None))
    for key in ("epoch_sha256", "samples_sha256"):
        assert f"{sum(int(facts[key], 16) for facts in told) % 2**256:064x}" == once[key]
    half = samples_drawn(whole, data, 1)
    assert half["samples_sha256"] != half["epoch_sha256"] and (half["of_stage"], half["of_epoch"]) == (16, 30)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4), st.lists(st.integers(0, 3), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_digests_tell_multisets_apart(one, other):
    data = named(4)
    first, second = multiset_digests(data, np.array([one, other]))
    assert (first == second) == (one == other)


@pytest.mark.parametrize("order", ["shuffle", "sequential", by_column(buckets=2)])
@pytest.mark.parametrize("packing", [False, True])
def test_times_drawn_are_the_rows_of_the_steps(order, packing):
    parts = (MixturePart(dataset="a", weight=2), MixturePart(dataset="b", weight=1, max_samples=9))
    data = named(40, sources=("a", "b"), source=[0] * 25 + [1] * 15, length=7)
    schedule = scheduled(data, order, list(range(40)), data=parts, packing=packing, size=4, max_length=32)
    for steps in (1, 3, schedule.total_steps(1, None), schedule.total_steps(2.5, None)):
        rows = Counter(s for step in range(steps) for row in schedule.rows_of_step(step) for s in row)
        assert schedule.times_drawn(steps).tolist() == [rows[i] for i in range(40)]


def test_the_order_can_start_anywhere():
    data, values = named(50), np.random.default_rng(3).integers(0, 5, 50).tolist()
    forward, backward = (scheduled(data, by_column(buckets=4), values, size=4) for _ in range(2))
    steps = list(range(forward.total_steps(3, None)))
    asked = {step: backward.rows_of_step(step) for step in reversed(steps)}
    assert [forward.rows_of_step(step) for step in steps] == [asked[step] for step in steps]


def test_packing_keeps_the_order_from_window_to_window():
    random = np.random.default_rng(0)
    lengths = random.integers(2, 30, 2 * WINDOW + 100)
    data = corpus_of((range(n), [True] * n) for n in lengths)
    values = random.permutation(len(lengths)).tolist()
    schedule = scheduled(data, by_column(), values, packing=True)
    rows = schedule._rows_of_epoch(0)
    windows = [{values[sample] // WINDOW for sample in row} for row in rows.rows(0, len(rows))]
    assert all(len(window) == 1 for window in windows)
    numbers = [window.pop() for window in windows]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2}
    firsts = [min(values[sample] for sample in row) for row in rows.rows(0, len(rows))]
    assert firsts == sorted(firsts)
    assert lengths.sum() > 0.9 * len(rows) * 64, "packs of 64 tokens are nearly full"


def test_a_mixture_is_sorted_as_one():
    parts = (MixturePart(dataset="a", weight=1), MixturePart(dataset="b", weight=1))
    data = named(12, sources=("a", "b"), source=[0] * 8 + [1] * 4)
    values = [*range(0, 16, 2), 1, 5, 9, 13]
    schedule = scheduled(data, by_column(), values, data=parts)
    walked = epoch_of(schedule)
    assert Counter(walked) == {**dict.fromkeys(range(8), 1), **dict.fromkeys(range(8, 12), 2)}
    assert [values[sample] for sample in walked] == sorted(values[sample] for sample in walked)


def test_a_part_that_leaves_a_weighted_source_nothing():
    parts = (MixturePart(dataset="a", weight=1), MixturePart(dataset="b", weight=1))
    data = named(4, sources=("a", "b"), source=[0, 0, 1, 1])
    with pytest.raises(StudyError, match=r"order\.take: nothing of b lies in this part of the order"):
        scheduled(data, by_column(take=(0, 0.5)), [1, 2, 3, 4], data=parts)
    unweighted = (MixturePart(dataset="a"), MixturePart(dataset="b"))
    assert scheduled(data, by_column(take=(0, 0.5)), [1, 2, 3, 4], data=unweighted).samples_per_epoch == [2, 0]
    with pytest.raises(StudyError, match="nothing of a lies in this part"):
        scheduled(named(3), by_column(take=(0, 0.1)), [1, 2, 3])


@pytest.fixture
def column(write_jsonl, folders):
    """A function: the values of column `c` of records that hold these, None for one that lacks the column."""

    def read(values, *, name="c", max_rejected=0.5, skipped=()):
        lacking = object()
        rows = [
            {"id": f"r{i}", "prompt": f"{i}", "completion": "x", **({} if value is lacking else {"c": value})}
            for i, value in enumerate(values)
        ]
        write_jsonl("d.jsonl", rows)
        kept = [i for i in range(len(values)) if i not in skipped]
        data = named(len(kept), [f"r{i}" for i in kept], sources=("d",))
        datasets = {"d": FileDataset(path="d.jsonl", max_rejected=max_rejected)}
        return column_values(data, name, datasets, folders, key="stages.a.order.column")

    return read


@pytest.mark.parametrize(
    ("values", "expected", "kind", "reasons"),
    [
        ([3, 1.5, -2], [3, 1.5, -2], "numbers", {}),
        (["10", "9.5", "1e3"], [10.0, 9.5, 1000.0], "numbers", {}),
        (["b", "a", "7"], ["b", "a", "7"], "text", {}),
        ([3, None, 1, ""], [3, None, 1, None], "numbers", {"no value": 2}),
        ([3, 1, "hard"], [3, 1, None], "numbers", {"not a number": 1}),
        (["a", "b", 3], ["a", "b", None], "text", {"not text": 1}),
        ([3, 10**400, 1], [3, None, 1], "numbers", {"not a number": 1}),
        ([1, 2, True, [1]], [1, 2, None, None], "numbers", {"not a number": 2}),
    ],
)
def test_values_are_of_one_kind(column, values, expected, kind, reasons):
    found, facts = column(values)
    assert (found, facts["kind"]) == (expected, kind)
    assert facts["rejected"] == ({"d": reasons} if reasons else {})


def test_samples_that_were_not_tokenised_are_stepped_over(column):
    assert column([5, 6, 7, 8, 9], skipped=(0, 3))[0] == [6, 7, 9]


def test_data_that_only_evaluate_need_no_column(write_jsonl, folders):
    write_jsonl("d.jsonl", [{"id": "r0", "prompt": "p", "completion": "c", "c": 4}])
    write_jsonl("e.jsonl", [{"id": "r0", "prompt": "p", "completion": "c"}])
    datasets = {name: FileDataset(path=f"{name}.jsonl") for name in "de"}
    data = named(1, ["r0"], sources=("d",))
    assert column_values(data, "c", datasets, folders, key="k")[0] == [4]


def test_a_data_set_and_its_held_out_rows_are_told_apart(write_jsonl, folders):
    rows = [{"id": f"r{i}", "prompt": f"{i}", "completion": "c", "c": i} for i in range(20)]
    write_jsonl("d.jsonl", rows)
    held_out = [is_held_out(f"r{i}", 0.5) for i in range(20)]
    order = sorted(range(20), key=lambda i: held_out[i])
    data = named(20, [f"r{i}" for i in order], sources=("d", "d@held_out"), source=[int(held_out[i]) for i in order])
    datasets = {"d": FileDataset(path="d.jsonl", held_out=0.5)}
    assert column_values(data, "c", datasets, folders, key="k")[0] == order


def test_too_many_records_without_a_value(column):
    with pytest.raises(StudyError) as caught:
        column([1, None, 2, "hard"], max_rejected=0.4)
    assert "stages.a.order.column: 2 of 4 records of d cannot be ordered" in str(caught.value)
    assert "no value 1, not a number 1" in str(caught.value) and "r1: None; r3: 'hard'" in str(caught.value)


def test_records_that_are_named_are_those_of_the_data_set_that_is_refused(write_jsonl, folders):
    for name, values in (("d", [None, None, None, 4]), ("e", [None, 1, 2, 3])):
        rows = [{"id": f"{name}{i}", "prompt": "p", "completion": "c", "c": value} for i, value in enumerate(values)]
        write_jsonl(f"{name}.jsonl", rows)
    data = named(8, [f"{name}{i}" for name in "de" for i in range(4)], sources=("d", "e"), source=[0] * 4 + [1] * 4)
    datasets = {"d": FileDataset(path="d.jsonl", max_rejected=1), "e": FileDataset(path="e.jsonl", max_rejected=0)}
    with pytest.raises(StudyError, match=r"1 of 4 records of e cannot be ordered \(no value 1; such as e0: None\)"):
        column_values(data, "c", datasets, folders, key="k")


def test_a_column_that_no_record_has_is_told_with_the_nearest(column):
    with pytest.raises(StudyError, match=r"no record of the data set d has a column 'promt'; did you mean 'prompt'\?"):
        column([1, 2], name="promt")
    with pytest.raises(StudyError, match="it has: id, prompt, completion, c"):
        column([1, 2], name="zzzz")


def test_what_was_written_is_read_back(tmp_path):
    data = named(3, ["ü", "b\n", "c"])
    write_values(tmp_path / "f", data, [0.1, None, "x"], {"kind": "k"})
    assert read_values(tmp_path / "f", data) == ([0.1, None, "x"], {"kind": "k"})
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    with pytest.raises(AssertionError, match="other samples"):
        read_values(tmp_path / "f", named(3))


def test_orders_in_words():
    assert order_words("shuffle") == "shuffle"
    words = order_words(by_column(direction="descending", buckets=3, take=(0, 0.5)))
    assert words == "by column c, descending, shuffled in 3 buckets, from 0 to 0.5 of it"

"""Intervals and tests over samples, against scipy, by hand, and by simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tunestudy.report.resampling import Interval, intervals, paired_p, per_cluster
from tunestudy.report.sample_level import _renumbered as renumbered


def alone(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column whose units are independent."""
    return np.asarray(values, dtype=float)[:, None], np.arange(len(values))


def one(values: np.ndarray, clusters: np.ndarray | None = None) -> Interval:
    column, numbers = alone(values)
    (found,) = intervals(column, numbers if clusters is None else clusters)
    return found


def test_many_units_give_the_normal_interval() -> None:
    values = (np.random.default_rng(5).random(4000) < 0.8).astype(float)
    found = one(values)
    half = 1.96 * values.std(ddof=1) / np.sqrt(4000)
    assert found.mean == values.mean()
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.08 * half)


def test_it_is_scipys_bootstrap_up_to_chance() -> None:
    values = np.random.default_rng(2).beta(2, 1, 300)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert (one(values).low, one(values).high) == pytest.approx((expected.low, expected.high), abs=0.003)


@pytest.mark.parametrize("kind", ["right or wrong", "fractions", "images with five questions"])
def test_the_interval_holds_the_truth_about_95_times_in_100(kind: str) -> None:
    """400 benchmarks of 150 samples or 60 images, drawn from a known truth; 95 % ± 3 standard errors of the count."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        if kind == "right or wrong":
            values, truth, clusters = (generator.random(150) < 0.7).astype(float), 0.7, None
        elif kind == "fractions":
            values, truth, clusters = generator.beta(3, 1, 150), 0.75, None
        else:
            hardness = generator.beta(1, 1, 60).repeat(5)
            values, truth, clusters = (generator.random(300) < hardness).astype(float), 0.5, np.arange(60).repeat(5)
        found = one(values, clusters)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert 0.95 - 3 * 0.011 <= held / 400 <= 0.95 + 3 * 0.011


def test_questions_of_one_image_count_as_little_as_they_tell() -> None:
    """Five equal answers per image tell what one does; taking them for independent makes the interval √5 too narrow."""
    values = (np.random.default_rng(3).random(100) < 0.5).astype(float).repeat(5)
    together, apart = one(values, np.arange(100).repeat(5)), one(values)
    single = one(values[::5])
    assert (together.low, together.high) == (single.low, single.high)
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(5), rel=0.1)


def test_columns_are_as_if_alone() -> None:
    values = np.random.default_rng(1).random((50, 3))
    together = intervals(values, np.arange(50))
    for k, found in enumerate(together):
        single = one(values[:, k])
        assert (found.mean, found.low, found.high) == pytest.approx((single.mean, single.low, single.high), rel=1e-12)


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.025 ** (1 / 40), 1.0), (0.0, 0.0, 1 - 0.025 ** (1 / 40))])
def test_all_right_and_all_wrong_are_bounded_by_the_binomial(value: float, low: float, high: float) -> None:
    found = one(np.full(40, value))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9) and "exact binomial" in found.note


def test_one_cluster_has_no_interval() -> None:
    found = one(np.array([0.0, 1.0]), np.zeros(2, dtype=np.int64))
    assert (found.mean, found.low, found.high) == (0.5, None, None) and found.note
    (delta,) = intervals(np.array([[0.5]]), np.zeros(1, dtype=np.int64), scores=0)
    assert (delta.low, delta.high) == (None, None)


def test_equal_differences_have_no_width_and_say_so() -> None:
    (found,) = intervals(np.zeros((9, 1)), np.arange(9), scores=0)
    assert (found.mean, found.low, found.high) == (0, 0, 0) and "no width" in found.note


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=10))
def test_exact_p_is_the_share_of_all_sign_patterns(differences_C: list[int]) -> None:
    """Against all 2ⁿ of them, written out."""
    sums = [abs(sum(s * d for s, d in zip(signs, differences_C, strict=True)))
            for signs in product((-1, 1), repeat=len(differences_C))]  # fmt: skip
    expected = np.mean(np.array(sums) >= abs(sum(differences_C)))
    ((p, exact),) = paired_p(np.array(differences_C, dtype=float)[:, None] / 3, [3])
    assert exact and p == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=40)
def test_of_single_rows_at_one_seed_it_is_mcnemars_test(gained: int, lost: int) -> None:
    column = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 5)[:, None]
    ((p, exact),) = paired_p(column, [1])
    expected = stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert exact and p == pytest.approx(expected, abs=1e-12)


def test_of_fractions_it_is_scipys_permutation_test_up_to_chance() -> None:
    column = np.random.default_rng(4).normal(0.12, 0.5, 60)
    ((p, exact),) = paired_p(column[:, None], [1])
    expected = stats.permutation_test(
        (column,), np.sum, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=2
    ).pvalue
    assert not exact and p == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("kind", ["exact", "random"])
def test_p_is_uniform_where_there_is_no_difference(kind: str) -> None:
    """300 pairs of equally good models: no level is rejected more often than it says, nor much less."""
    generator = np.random.default_rng(11)
    if kind == "exact":
        rights = (generator.random((2, 300, 300)) < 0.6).astype(float)
        columns = rights[0] - rights[1]
    else:
        columns = generator.beta(2, 2, (80, 300)) - generator.beta(2, 2, (80, 300))
    p = np.array([p for p, _ in paired_p(columns, [1] * 300)])
    assert stats.kstest(p, "uniform").statistic < (0.12 if kind == "exact" else 0.09)
    assert np.mean(p <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_sums_by_cluster_by_hand() -> None:
    sums, sizes = per_cluster(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 0]))
    assert sums.tolist() == [[5.0], [2.0]] and sizes.tolist() == [2, 1]
    assert renumbered(np.array([7, 3, 7])).tolist() == [1, 0, 1]

"""Against numbers worked out by hand, and against scipy's own routines."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tunestudy.report.statistics import (
    adjust,
    paired_t_p,
    sign_flip_p,
    smallest_reachable_p,
    summarise,
)

VALUES = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=1, max_size=9)


def test_summary_by_hand() -> None:
    """Mean 2, squares 1 + 0 + 1 over n − 1 = 2; t(0.975, 2) = 4.302653."""
    summary = summarise([1.0, 2.0, 3.0])
    assert (summary.n, summary.mean, summary.std) == (3, 2.0, 1.0)
    assert summary.ci_low == pytest.approx(2 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert summary.ci_high == pytest.approx(2 + 4.302653 / math.sqrt(3), rel=1e-6)


def test_summary_of_none_one_and_equal_values_has_reasons_and_no_nan() -> None:
    none, one, equal = summarise([]), summarise([0.5]), summarise([0.5, 0.5, 0.5])
    assert (none.mean, none.std, none.ci_low) == (None, None, None) and none.note
    assert (one.mean, one.std, one.ci_high) == (0.5, None, None) and "one seed" in one.note
    assert (equal.std, equal.ci_low, equal.ci_high) == (0.0, 0.5, 0.5) and "identical" in equal.note


@given(VALUES)
def test_summary_is_never_nan(values: list[float]) -> None:
    summary = summarise(values)
    known = (summary.mean, summary.std, summary.ci_low, summary.ci_high)
    assert all(value is None or math.isfinite(value) for value in known)


def test_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.90, 0.94, 0.92]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    summary = summarise(values)
    assert (summary.ci_low, summary.ci_high) == pytest.approx((low, high), rel=1e-12)


def test_sign_flip_by_hand() -> None:
    """Of the 8 patterns of 1, 2, 3 only +++ and −−− reach 6; of 1, −2, 3 six reach 2 (all but ±(1 + 2 − 3))."""
    assert sign_flip_p([1, 2, 3]) == 2 / 8
    assert sign_flip_p([1, -2, 3]) == 6 / 8
    assert sign_flip_p([0, 0, 0]) == 1.0
    assert sign_flip_p([5]) == 1.0


@given(VALUES)
def test_sign_flip_is_the_share_of_all_patterns(values: list[float]) -> None:
    observed = abs(math.fsum(values))
    slack = 1e-9 * max(1.0, sum(map(abs, values)))
    sums = [
        abs(math.fsum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product((-1, 1), repeat=len(values))
    ]
    least = sum(s >= observed + slack for s in sums) / len(sums)
    most = sum(s >= observed - slack for s in sums) / len(sums)
    assert least <= sign_flip_p(values) <= most


@given(VALUES)
def test_sign_flip_never_beats_the_smallest_reachable_p(values: list[float]) -> None:
    assert smallest_reachable_p(len(values)) <= sign_flip_p(values) <= 1.0


def test_sign_flip_agrees_with_scipys_permutation_test() -> None:
    differences = [0.03, 0.01, -0.02, 0.05, 0.04, 0.02, 0.06]
    expected = stats.permutation_test(
        (np.array(differences),), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    assert sign_flip_p(differences) == pytest.approx(expected, rel=1e-12)


def test_sign_flip_of_many_pairs_is_drawn_but_repeatable() -> None:
    differences = list(np.random.default_rng(3).normal(0.5, 1.0, 40))
    first = sign_flip_p(differences)
    assert first == sign_flip_p(differences)
    assert first == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)


def test_smallest_reachable_p() -> None:
    assert [smallest_reachable_p(n) for n in (0, 1, 2, 3, 6)] == [1.0, 1.0, 0.5, 0.25, 0.03125]


def test_paired_t_is_scipys_and_says_when_it_is_undefined() -> None:
    ours, theirs = [0.91, 0.93, 0.95], [0.90, 0.90, 0.91]
    p, note = paired_t_p([a - b for a, b in zip(ours, theirs, strict=True)])
    assert p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9) and note == ""
    assert paired_t_p([0.1])[0] is None
    assert paired_t_p([0.1, 0.1, 0.1]) == (None, "undefined: the difference is the same at every seed")
    assert paired_t_p([0.0, 0.0])[0] is None


def test_corrections_by_hand() -> None:
    """Holm: 0.01 × 3, then max(…, 0.03 × 2), then max(…, 0.04 × 1)."""
    assert adjust([0.04, 0.01, 0.03], "holm") == pytest.approx([0.06, 0.03, 0.06])
    assert adjust([0.04, 0.01, 0.5], "bonferroni") == pytest.approx([0.12, 0.03, 1.0])
    assert adjust([0.04, 0.01], "none") == [0.04, 0.01]
    assert adjust([], "holm") == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    holm, bonferroni = adjust(p_values, "holm"), adjust(p_values, "bonferroni")
    assert all(p <= h <= b for p, h, b in zip(p_values, holm, bonferroni, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [holm[i] for i in order] == sorted(holm)

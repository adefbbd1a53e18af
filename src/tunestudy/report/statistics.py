"""Means, intervals and paired tests over few seeds. Never NaN: what cannot be said is None with a reason in words.

Why the sign-flip test is the primary one: docs/decisions/0003-paired-tests.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Correction = Literal["holm", "bonferroni", "none"]
CONFIDENCE = 0.95
_EXACT_UP_TO = 20
_RANDOM_FLIPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric of one variant over seeds."""

    n: int
    mean: float | None
    std: float | None
    """Sample standard deviation (ddof = 1); None below two seeds."""
    ci_low: float | None
    ci_high: float | None
    """95 % interval of the mean by Student's t with n − 1 degrees of freedom."""
    note: str
    """Why something is missing; empty when nothing is."""


def summarise(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and 95 % t interval of one value per seed."""
    n = len(values)
    if n == 0:
        return Summary(n=0, mean=None, std=None, ci_low=None, ci_high=None, note="no result yet")
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n=1, mean=mean, std=None, ci_low=None, ci_high=None, note="one seed: no spread can be given")
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * std / math.sqrt(n)
    note = "" if std > 0 else "identical at every seed: the interval has no width"
    return Summary(n=n, mean=mean, std=std, ci_low=mean - half, ci_high=mean + half, note=note)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired sign-flip (randomisation) test on the mean difference.

    Exact over all 2ⁿ sign patterns up to n = 20; beyond, 100,000 random ones (fixed seed) and the observed one.
    Source: Fisher 1935, The Design of Experiments, §21; Pitman 1937.
    """
    values = np.asarray(differences, dtype=np.float64)
    assert values.size > 0, "a test needs at least one pair"
    observed = abs(values.sum())
    tolerance = 1e-12 * max(1.0, np.abs(values).sum())
    if values.size <= _EXACT_UP_TO:
        sums = _all_signed_sums(values)
        return float(np.mean(np.abs(sums) >= observed - tolerance))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_RANDOM_FLIPS, values.size))
    extreme = int(np.sum(np.abs(signs @ values) >= observed - tolerance))
    return (extreme + 1) / (_RANDOM_FLIPS + 1)


def _all_signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of ±values over all sign patterns. Shape (n,) → (2ⁿ,)."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums - value, sums + value))
    return sums


def smallest_reachable_p(pairs: int) -> float:
    """The least p that the sign-flip test can give with this many pairs, however large the differences: 2 / 2ⁿ."""
    return 1.0 if pairs == 0 else max(2.0 ** (1 - pairs), 0.0 if pairs <= _EXACT_UP_TO else 1 / (_RANDOM_FLIPS + 1))


def paired_t_p(differences: Sequence[float]) -> tuple[float | None, str]:
    """Two-sided p of the paired t-test and, where there is none, why."""
    if len(differences) < 2:
        return None, "needs two seeds"
    spread = float(np.std(differences, ddof=1))
    if spread <= 1e-12 * max(1e-300, float(np.max(np.abs(differences)))):
        return None, "undefined: the difference is the same at every seed"
    return float(stats.ttest_1samp(differences, 0.0).pvalue), ""


def adjust(p_values: Sequence[float], correction: Correction) -> list[float]:
    """P-values corrected for their number, in the order given. Source: Holm 1979; Dunn 1961."""
    count = len(p_values)
    if correction == "none":
        return list(p_values)
    if correction == "bonferroni":
        return [min(1.0, p * count) for p in p_values]
    adjusted, running = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted

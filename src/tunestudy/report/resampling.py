"""What other samples would have shown for these very models: bootstrap intervals and sign-flip tests over clusters.

A cluster is a unit that counts once, or all units that share an image: those are not independent, and taking them for
so makes intervals too narrow. Sources: Efron 1979 (the bootstrap), Miller 2024, arXiv:2411.00640 (clustered evaluation
questions), Fisher 1935 §21 (sign flips), McNemar 1947 (the same for right and wrong at one seed).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tunestudy.report.statistics import CONFIDENCE

RESAMPLES = 2_000
FLIPS = 20_000
_LARGEST_EXACT = 100_000
_AT_ONCE = 2_000_000
Values = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over units, and where it would lie for other ones."""

    mean: float
    low: float | None
    high: float | None
    note: str = ""
    """Why there is no interval, or how it was made when not by the bootstrap."""


def intervals(values_UK: Values, cluster_of: Places, *, scores: int | None = None) -> list[Interval]:
    """95 % percentile bootstrap intervals of K means over U units, resampled by cluster, all on the same resamples.

    Shapes: values (U, K), cluster_of (U,) numbers from 0 without gaps. The first `scores` columns lie in 0…1 (None: all
    do), the others are paired differences. Where every unit of a score is 0, or every unit is 1, resampling shows
    nothing else; the exact binomial bound for that many clusters stands in (Clopper and Pearson 1934).
    """
    means: list[float] = values_UK.mean(axis=0).tolist()
    sums_CK, sizes_C = per_cluster(values_UK, cluster_of)
    if len(sizes_C) < 2:
        return [Interval(mean=mean, low=None, high=None, note="one sample has no spread") for mean in means]
    low, high = _quantiles(sums_CK, sizes_C)
    same = (values_UK == values_UK[:1]).all(axis=0)
    found = []
    for k, mean in enumerate(means):
        is_score = scores is None or k < scores
        if is_score and same[k] and mean in (0.0, 1.0):
            found.append(_all_the_same(mean, len(sizes_C)))
        else:
            note = "the same on every sample: the interval has no width" if same[k] else ""
            found.append(Interval(mean=mean, low=float(low[k]), high=float(high[k]), note=note))
    return found


def per_cluster(values_UK: Values, cluster_of: Places) -> tuple[Values, Values]:
    """Sums (C, K) and numbers of units (C,) of each cluster."""
    sizes = np.bincount(cluster_of).astype(np.float64)
    sums = np.zeros((len(sizes), values_UK.shape[1]))
    np.add.at(sums, cluster_of, values_UK)
    return sums, sizes


def _quantiles(sums_CK: Values, sizes_C: Values) -> tuple[Values, Values]:
    """The middle 95 % of each mean over resampled clusters. Shapes (K,), (K,)."""
    num_clusters = len(sizes_C)
    generator = np.random.default_rng(0)
    found, left = [], RESAMPLES
    while left:
        some = min(left, max(1, _AT_ONCE // num_clusters))
        drawn = generator.integers(0, num_clusters, size=(some, num_clusters), dtype=np.int32)
        drawn += np.arange(some, dtype=np.int32)[:, None] * np.int32(num_clusters)
        times = np.bincount(drawn.ravel(), minlength=some * num_clusters).reshape(some, num_clusters).astype(np.float64)
        found.append((times @ sums_CK) / (times @ sizes_C)[:, None])
        left -= some
    low, high = np.quantile(np.concatenate(found), [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    return low, high


def _all_the_same(mean: float, num_clusters: int) -> Interval:
    right = num_clusters if mean == 1.0 else 0
    bounds = stats.binomtest(right, num_clusters).proportion_ci(CONFIDENCE, method="exact")
    note = f"all samples are {'right' if right else 'wrong'}: exact binomial bound"
    return Interval(mean=mean, low=float(bounds.low), high=float(bounds.high), note=note)


def paired_p(sums_CK: Values, lattices: Sequence[int]) -> list[tuple[float, bool]]:
    """(two-sided p, whether it is exact) of the sign-flip test on each column of summed differences per cluster (C, K).

    Had neither model an advantage, each cluster's difference could as well have had the other sign. lattices (K): how
    many seeds a column averages; then rights and wrongs differ by multiples of 1 / that, and the distribution of the
    sum is found exactly, which for single rows at one seed is McNemar's exact test. Else 20,000 random patterns of a
    fixed seed, the observed one counted.
    """
    found: list[tuple[float, bool] | None] = []
    for column, lattice in zip(sums_CK.T, lattices, strict=True):
        whole = np.rint(column * lattice)
        on_lattice = np.allclose(column * lattice, whole, atol=1e-7, rtol=0)
        small = np.abs(whole).sum() <= _LARGEST_EXACT
        found.append((_exact_p(whole.astype(np.int64)), True) if on_lattice and small else None)
    drawn = [k for k, p in enumerate(found) if p is None]
    sampled = dict(zip(drawn, _random_p(sums_CK[:, drawn]), strict=True)) if drawn else {}
    return [p if p is not None else (sampled[k], False) for k, p in enumerate(found)]


def _exact_p(differences_C: Places) -> float:
    """Of integers: the sum of n differences of ±v is v(2B − n) with B binomial; sizes are convolved."""
    sizes, counts = np.unique(np.abs(differences_C[differences_C != 0]), return_counts=True)
    spread = np.ones(1)  # probability of every sum from −reach to reach
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        step = np.zeros(2 * size * count + 1)
        step[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        spread = np.convolve(spread, step)
    reach = len(spread) // 2
    observed = abs(int(differences_C.sum()))
    at = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, spread[at >= observed].sum()))


def _random_p(sums_CK: Values) -> list[float]:
    totals = sums_CK.sum(axis=0)
    observed = np.abs(totals)
    slack = 1e-9 * np.maximum(1.0, np.abs(sums_CK).sum(axis=0))
    generator = np.random.default_rng(0)
    extreme, left = np.zeros(sums_CK.shape[1], dtype=np.int64), FLIPS
    while left:
        some = min(left, max(1, _AT_ONCE // len(sums_CK)))
        plus = generator.integers(0, 2, size=(some, len(sums_CK)), dtype=np.int8).astype(np.float64)
        extreme += (np.abs(2.0 * (plus @ sums_CK) - totals) >= observed - slack).sum(axis=0)
        left -= some
    return [float(p) for p in (extreme + 1) / (FLIPS + 1)]

"""What the samples of a benchmark say: an interval around each mean, paired tests with the baseline, and categories.

All of it speaks about other samples for these very models; spread over seeds speaks about training again on the same
samples. Neither contains the other: docs/decisions/0013-intervals-over-samples.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tunestudy.report.answers import Answers, Places, Questions, Shelf, Values
from tunestudy.report.facts import Score
from tunestudy.report.resampling import Interval, intervals, paired_p, per_cluster
from tunestudy.report.statistics import Correction, adjust

SMALL = 30
"""A category with fewer units is marked: its interval is rough, and its mean moves by 1/30 with one answer."""
MOST_CATEGORIES = 40
_SAME = 5e-4

Scores = Mapping[str, Mapping[int, Score]]
"""By variant and seed, of one benchmark."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A variant against the baseline on the same samples, averaged over the seeds that both have."""

    seeds: tuple[int, ...]
    delta: Interval
    gained: int
    """(unit, seed) pairs on which the variant scores more."""
    lost: int
    p: float
    p_corrected: float
    test: str
    """Which test it is."""


@dataclass(frozen=True, kw_only=True)
class Category:
    """One variant on the units of one category."""

    column: str
    value: str
    units: int
    score: Interval
    delta: Interval | None
    """To the baseline; None for itself, and where they cannot be paired."""

    @property
    def small(self) -> bool:
        return self.units < SMALL


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One variant on one benchmark, averaged over its seeds."""

    units: int
    clusters: int
    grouped: bool
    """A unit is a group of rows, worth what its worst row is."""
    seeds: tuple[int, ...]
    score: Interval
    paired: Paired | None
    categories: list[Category] = field(default_factory=list)

    @property
    def clustered(self) -> bool:
        return self.clusters < self.units


@dataclass(frozen=True, eq=False)
class _Sheet:
    """Scores of one variant: units by seed."""

    questions: Questions
    grouped: bool
    by_seed: dict[int, Values]

    def mean(self, seeds: Sequence[int]) -> Values:
        """(U,): over these seeds."""
        mean: Values = np.stack([self.by_seed[seed] for seed in seeds]).mean(axis=0)
        return mean


def sample_level(scores: Scores, baseline: str | None, shelf: Shelf) -> dict[str, Samples]:
    """By variant; left out where predictions are missing, or the reported value is no mean over samples."""
    sheets = {variant: sheet for variant, of in scores.items() if (sheet := _sheet(of, shelf)) is not None}
    base = sheets.get(baseline or "")
    found: dict[str, Samples] = {}
    for questions in {id(sheet.questions): sheet.questions for sheet in sheets.values()}.values():
        alike = {variant: sheet for variant, sheet in sheets.items() if sheet.questions is questions}
        against = base if base is not None and base.questions is questions else None
        found |= _of_same_questions(questions, alike, against)
    return {variant: found[variant] for variant in scores if variant in found}


def _sheet(of: Mapping[int, Score], shelf: Shelf) -> _Sheet | None:
    read: dict[int, Answers] = {}
    if any(score.aggregate not in ("mean", "all_of_group") for score in of.values()):
        return None
    for seed, score in of.items():
        answers = shelf.answers(score)
        if answers is None or abs(answers.units.mean() - score.metrics[score.primary]) > _SAME:
            return None
        read[seed] = answers
    if len({id(answers.questions) for answers in read.values()}) != 1:
        return None
    grouped = any(score.aggregate == "all_of_group" for score in of.values())
    return _Sheet(next(iter(read.values())).questions, grouped, {seed: answers.units for seed, answers in read.items()})


def _of_same_questions(questions: Questions, sheets: dict[str, _Sheet], base: _Sheet | None) -> dict[str, Samples]:
    """All variants on the same resamples."""
    means_UV = np.stack([sheet.mean(list(sheet.by_seed)) for sheet in sheets.values()], axis=1)
    common = {variant: _common(sheet, base) for variant, sheet in sheets.items()}
    compared = [variant for variant, seeds in common.items() if seeds]
    deltas_UV = np.zeros((questions.units, 0))
    if base is not None and compared:
        deltas_UV = np.stack([sheets[v].mean(common[v]) - base.mean(common[v]) for v in compared], axis=1)
    both = intervals(np.hstack([means_UV, deltas_UV]), questions.cluster_of, scores=len(sheets))
    score_of = dict(zip(sheets, both[: len(sheets)], strict=True))
    delta_of = dict(zip(compared, both[len(sheets) :], strict=True))
    pairs = _pairs(questions, sheets, base, common, delta_of, deltas_UV) if base is not None else {}
    categories = _categories(questions, list(sheets), compared, means_UV, deltas_UV)
    return {
        variant: Samples(
            units=questions.units,
            clusters=int(questions.cluster_of.max()) + 1,
            grouped=sheet.grouped,
            seeds=tuple(sheet.by_seed),
            score=score_of[variant],
            paired=pairs.get(variant),
            categories=categories[variant],
        )
        for variant, sheet in sheets.items()
    }


def _common(sheet: _Sheet, base: _Sheet | None) -> list[int]:
    if base is None or sheet is base:
        return []
    return [seed for seed in sheet.by_seed if seed in base.by_seed]


def _pairs(
    questions: Questions, sheets: dict[str, _Sheet], base: _Sheet, common: dict[str, list[int]],
    delta_of: dict[str, Interval], deltas_UV: Values,
) -> dict[str, Paired]:  # fmt: skip
    """The columns of `deltas_UV` are the variants of `delta_of`, in its order."""
    sums_CV, sizes_C = per_cluster(deltas_UV, questions.cluster_of)
    tests = paired_p(sums_CV, [len(common[variant]) for variant in delta_of])
    pairs = {}
    for (variant, delta), (p, exact) in zip(delta_of.items(), tests, strict=True):
        seeds = common[variant]
        ours, theirs = (np.stack([of.by_seed[seed] for seed in seeds]) for of in (sheets[variant], base))
        single = len(seeds) == 1 and len(sizes_C) == questions.units
        binary = bool(np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all())
        pairs[variant] = Paired(
            seeds=tuple(seeds),
            delta=delta,
            gained=int((ours > theirs).sum()),
            lost=int((ours < theirs).sum()),
            p=p,
            p_corrected=p,
            test="McNemar, exact" if single and binary and exact else f"sign-flip, {'exact' if exact else 'random'}",
        )
    return pairs


def _categories(
    questions: Questions, variants: list[str], compared: list[str], means_UV: Values, deltas_UV: Values
) -> dict[str, list[Category]]:
    """By variant, the largest categories of each column first; a column with one value says nothing and is left out."""
    found: dict[str, list[Category]] = {variant: [] for variant in variants}
    for column, values in questions.categories.items():
        counted = Counter(value for value in values if value)
        if len(counted) < 2:
            continue
        told = np.array(values)
        for value, _ in counted.most_common(MOST_CATEGORIES):
            of = np.flatnonzero(told == value)
            near = _renumbered(questions.cluster_of[of])
            both = intervals(np.hstack([means_UV[of], deltas_UV[of]]), near, scores=len(variants))
            deltas = dict(zip(compared, both[len(variants) :], strict=True))
            for variant, score in zip(variants, both[: len(variants)], strict=True):
                entry = Category(column=column, value=value, units=len(of), score=score, delta=deltas.get(variant))
                found[variant].append(entry)
    return found


def _renumbered(clusters: Places) -> Places:
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)


def corrected(samples: dict[tuple[str, str], Samples], correction: Correction) -> dict[tuple[str, str], Samples]:
    """Tests over samples are corrected together; those over seeds ask something else and are a family of their own."""
    tested = {key: of.paired for key, of in samples.items() if of.paired is not None}
    after = dict(zip(tested, adjust([paired.p for paired in tested.values()], correction), strict=True))
    return {
        key: replace(of, paired=replace(of.paired, p_corrected=after[key])) if of.paired is not None else of
        for key, of in samples.items()
    }

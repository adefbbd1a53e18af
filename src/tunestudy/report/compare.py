"""The headline: every variant on every benchmark over its seeds, and against the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from tunestudy.report.answers import Shelf
from tunestudy.report.direction import Direction, direction_of
from tunestudy.report.facts import Score, StudyFacts, mean
from tunestudy.report.sample_level import Samples, corrected, sample_level
from tunestudy.report.statistics import (
    Correction,
    Summary,
    adjust,
    paired_t_p,
    sign_flip_p,
    smallest_reachable_p,
    summarise,
)
from tunestudy.report.values import number


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A variant against the baseline, paired over the seeds that both have."""

    seeds: tuple[int, ...]
    delta: Summary
    """Of the paired differences, variant − baseline."""
    p: float
    """Exact sign-flip test."""
    p_corrected: float
    p_smallest: float
    """The least corrected p that this many seeds and comparisons allow."""
    t_p: float | None
    """Paired t-test, uncorrected, for readers who accept its normality assumption."""
    t_note: str
    verdict: str
    """In words: significant, not significant, or that the test could not have decided."""
    significant: bool | None
    """None: with so few seeds no difference could have been significant."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant on one metric of one benchmark."""

    variant: str
    benchmark: str
    metric: str
    primary: bool
    points: dict[int, float]
    """Value by seed."""
    missing: tuple[int, ...]
    """Seeds without a value."""
    summary: Summary
    fixed: bool
    """One evaluation of an untrained model: it has no seed to vary."""
    comparison: Comparison | None
    why_no_comparison: str
    best: bool = False
    way: str = ""
    """Of a metric that is the primary one computed in another way: which."""
    direction: Direction = "higher"
    """Which way it is better."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """All cells, and how they were compared."""

    cells: list[Cell]
    baseline: str | None
    alpha: float
    correction: Correction
    comparisons: int
    """Size of the family that p-values are corrected for: all tests on primary metrics."""
    effective_params: dict[str, float | None] = field(default_factory=dict)
    """By variant: parameters of the last stage that were trained and not pruned, mean over seeds."""
    gated: bool = False
    """Whether any variant prunes: where none does, effective parameters are the trainable ones."""
    samples: dict[tuple[str, str], Samples] = field(default_factory=dict)
    """By variant and benchmark; absent without predictions, and where the primary metric is no mean over them."""
    shelf: Shelf = field(default_factory=Shelf, repr=False)
    """The predictions as they were read."""

    def rows(self, benchmark: str) -> list[Cell]:
        """Primary cells of a benchmark in the order of the variants."""
        return [cell for cell in self.cells if cell.benchmark == benchmark and cell.primary]


def make_headline(facts: StudyFacts) -> Headline:
    """Summaries for all metrics; tests for primary metrics only, corrected together."""
    named = facts.report.get("correction")
    correction = cast(Correction, named if named in ("holm", "bonferroni", "none") else "holm")
    alpha = number(facts.report.get("alpha")) or 0.05
    cells = [cell for benchmark in facts.benchmarks for cell in _cells(facts, benchmark)]
    cells = _mark_best(_correct(cells, correction, alpha))
    shelf = Shelf()
    tests = sum(cell.comparison is not None for cell in cells)
    return Headline(
        cells=cells,
        baseline=facts.baseline,
        alpha=alpha,
        correction=correction,
        comparisons=tests,
        effective_params={variant: _effective_params(facts, variant) for variant in facts.variants},
        gated=any(facts.is_gated(variant) for variant in facts.variants),
        samples=corrected(_samples(facts, shelf), correction),
        shelf=shelf,
    )


def _samples(facts: StudyFacts, shelf: Shelf) -> dict[tuple[str, str], Samples]:
    found = {}
    for benchmark in facts.benchmarks:
        scores = {variant: _scores(facts, variant, benchmark) for variant in facts.variants}
        for variant, samples in sample_level(scores, facts.baseline, shelf).items():
            found[variant, benchmark] = samples
    return found


def _effective_params(facts: StudyFacts, variant: str) -> float | None:
    return mean([job.training.effective_params for job in facts.last_jobs(variant) if job.training])


def _cells(facts: StudyFacts, benchmark: str) -> list[Cell]:
    scores = {variant: _scores(facts, variant, benchmark) for variant in facts.variants}
    found = [score for by_seed in scores.values() for score in by_seed.values()]
    metrics, primary = _metrics(found)
    told = {metric: way for score in found for metric, way in score.higher_is_better.items()}
    cells = [
        _cell(facts, scores, benchmark, variant, metric, metric == primary) for metric in metrics for variant in scores
    ]
    return [replace(cell, direction=direction_of(cell.metric, told)) for cell in cells]


def _scores(facts: StudyFacts, variant: str, benchmark: str) -> dict[int, Score]:
    jobs = {seed: facts.last_job(variant, seed) for seed in facts.seeds}
    return {seed: job.scores[benchmark] for seed, job in jobs.items() if job and benchmark in job.scores}


def _metrics(scores: Sequence[Score]) -> tuple[list[str], str]:
    """Names of all metrics, the primary one first."""
    if not scores:
        return ["score"], "score"
    primary = scores[0].primary
    return list(dict.fromkeys([primary, *(name for score in scores for name in score.metrics)])), primary


def _cell(
    facts: StudyFacts, scores: dict[str, dict[int, Score]], benchmark: str, variant: str, metric: str, primary: bool
) -> Cell:
    found = scores[variant]
    points = {seed: value for seed, score in found.items() if (value := _value(score, metric)) is not None}
    fixed = _is_fixed(facts, variant)
    comparison, why = (None, "only primary metrics are tested")
    if primary:
        comparison, why = _compare(facts, scores, variant, metric)
    missing = tuple(seed for seed in facts.seeds if seed not in points)
    if fixed:
        points = dict(list(points.items())[:1])
    summary = summarise(list(points.values()))
    if fixed and points:
        summary = replace(summary, note="evaluated once without training: there is no seed to vary")
    ways = {score.primary for score in found.values() if metric.startswith(f"{score.primary} (")}
    return Cell(
        way=metric.removeprefix(f"{ways.pop()} (").removesuffix(")") if ways else "",
        variant=variant,
        benchmark=benchmark,
        metric=metric,
        primary=primary,
        points=points,
        missing=missing,
        summary=summary,
        fixed=fixed,
        comparison=comparison,
        why_no_comparison=why,
    )


def _value(score: Score, metric: str) -> float | None:
    """A score by another way is written only where it differs from the reported one."""
    if metric not in score.metrics and metric.startswith(f"{score.primary} ("):
        return score.metrics[score.primary]
    return score.metrics.get(metric)


def _is_fixed(facts: StudyFacts, variant: str) -> bool:
    """Whether all seeds of the variant share one evaluated, never trained job."""
    alone = len(facts.last_jobs(variant)) == 1 and len(facts.seeds) > 1
    return alone and not facts.variants[variant].stages and facts.one_start


def _compare(
    facts: StudyFacts, scores: dict[str, dict[int, Score]], variant: str, metric: str
) -> tuple[Comparison | None, str]:
    baseline = facts.baseline
    if variant == baseline or baseline is None:
        return None, "baseline"
    ours, theirs = scores[variant], scores[baseline]
    seeds = tuple(seed for seed in facts.seeds if metric in _of(ours, seed) and metric in _of(theirs, seed))
    if not seeds:
        return None, "no seed has both this result and the baseline's"
    differences = [ours[seed].metrics[metric] - theirs[seed].metrics[metric] for seed in seeds]
    unlike = {ours[seed].rows_sha256 for seed in seeds} | {theirs[seed].rows_sha256 for seed in seeds}
    if len(unlike) > 1:
        return None, "not compared: scored on other rows than the baseline"
    t_p, t_note = paired_t_p(differences)
    p = sign_flip_p(differences)
    comparison = Comparison(
        seeds=seeds,
        delta=summarise(differences),
        p=p,
        p_corrected=p,
        p_smallest=smallest_reachable_p(len(seeds)),
        t_p=t_p,
        t_note=t_note,
        verdict="",
        significant=None,
    )
    return comparison, ""


def _of(scores: dict[int, Score], seed: int) -> dict[str, float]:
    return scores[seed].metrics if seed in scores else {}


def _correct(cells: list[Cell], correction: Correction, alpha: float) -> list[Cell]:
    """Corrects all tests together and puts their outcome into words."""
    tested = [cell.comparison for cell in cells if cell.comparison]
    corrected = adjust([test.p for test in tested], correction)
    reachable = adjust([test.p_smallest for test in tested], correction)
    after = iter(zip(corrected, reachable, strict=True))
    out = []
    for cell in cells:
        if cell.comparison is None:
            out.append(cell)
            continue
        p, smallest = next(after)
        significant = None if smallest > alpha else p <= alpha
        verdict = _verdict(cell.comparison, p, smallest, alpha)
        judged = replace(cell.comparison, p_corrected=p, p_smallest=smallest, verdict=verdict, significant=significant)
        out.append(replace(cell, comparison=judged))
    return out


def _verdict(test: Comparison, p: float, smallest: float, alpha: float) -> str:
    if all(value == 0 for value in (test.delta.mean, test.delta.std or 0.0)):
        return "identical to the baseline at every seed"
    if smallest > alpha:
        return f"cannot decide (smallest reachable p {smallest:.2g})"
    return f"differs at level {alpha:g}" if p <= alpha else f"no difference shown at level {alpha:g}"


def _mark_best(cells: list[Cell]) -> list[Cell]:
    """Marks the best means of every benchmark's primary metric, where any variant has a worse one."""
    means: dict[str, list[float]] = {}
    for cell in cells:
        if cell.primary and cell.summary.mean is not None:
            means.setdefault(cell.benchmark, []).append(cell.summary.mean)

    def is_best(cell: Cell) -> bool:
        if not cell.primary or cell.summary.mean is None or cell.direction == "neither":
            return False
        of = means[cell.benchmark]
        pick = min if cell.direction == "lower" else max
        return cell.summary.mean == pick(of) and min(of) < max(of)

    return [replace(cell, best=is_best(cell)) for cell in cells]

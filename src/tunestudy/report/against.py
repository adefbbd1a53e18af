"""Where variants are better and worse than the baseline beyond an interval, in words: regressions come first."""

from dataclasses import dataclass, field

from tunestudy.report.compare import Cell, Headline
from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import listing, plural, signed
from tunestudy.report.sample_level import SMALL, Category

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Change:
    """One variant on one benchmark, or on one category of it, beyond its 95 % interval."""

    variant: str
    benchmark: str
    delta: float
    low: float
    high: float
    better: bool
    over: str
    """`samples` or `seeds`: what the interval is over."""
    category: Category | None = None

    @property
    def words(self) -> str:
        where = self.benchmark
        if self.category is not None:
            where += f", {self.category.column} {self.category.value}"
            where += f" (n = {self.category.units})" if self.category.small else ""
        return f"{where}: {signed(self.delta)} ({signed(self.low)} to {signed(self.high)})"


@dataclass(frozen=True, kw_only=True)
class Against:
    """All variants against the baseline."""

    baseline: str | None
    compared: int
    """Differences that have an interval."""
    variants: list[str]
    """Those with any."""
    changes: list[Change] = field(default_factory=list)

    def of(self, variant: str, *, better: bool, categories: bool = False) -> list[Change]:
        """Largest first."""
        found = [c for c in self.changes if c.variant == variant and c.better == better]
        return sorted(
            (c for c in found if (c.category is not None) == categories), key=lambda change: -abs(change.delta)
        )

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if not change.better]


def against_baseline(facts: StudyFacts, headline: Headline) -> Against:
    """Differences over samples where a benchmark's samples are known, over seeds where only those are."""
    changes, variants, compared = [], {}, 0
    for cell in headline.cells:
        if not cell.primary or cell.direction == "neither":
            continue
        for delta, category, over in _differences(headline, cell):
            compared += 1
            variants[cell.variant] = True
            mean, low, high = delta
            if low <= 0 <= high:
                continue
            change = Change(
                variant=cell.variant,
                benchmark=cell.benchmark,
                delta=mean,
                low=low,
                high=high,
                better=(mean > 0) == (cell.direction == "higher"),
                over=over,
                category=category,
            )
            changes.append(change)
    return Against(baseline=facts.baseline, compared=compared, variants=list(variants), changes=changes)


_Delta = tuple[float, float, float]


def _differences(headline: Headline, cell: Cell) -> list[tuple[_Delta, Category | None, str]]:
    samples = headline.samples.get((cell.variant, cell.benchmark))
    if samples is not None and samples.paired is not None:
        told = [(samples.paired.delta, None), *((c.delta, c) for c in samples.categories)]
        return [
            ((delta.mean, delta.low, delta.high), category, "samples")
            for delta, category in told
            if delta is not None and delta.low is not None and delta.high is not None
        ]
    seeds = cell.comparison.delta if cell.comparison else None
    if seeds is None or seeds.mean is None or seeds.ci_low is None or seeds.ci_high is None:
        return []
    return [((seeds.mean, seeds.ci_low, seeds.ci_high), None, "seeds")]


def sentences(against: Against) -> list[str]:
    """A line per variant that gained or lost, and one that says so where none lost. Empty where nothing is compared."""
    if not against.compared:
        return []
    lines = [line for variant in against.variants if (line := _of_variant(against, variant))]
    if not against.regressions:
        categories = any(change.category for change in against.changes)
        where = "on any benchmark or category" if categories else "on any benchmark"
        lines.append(f"No variant is worse than {against.baseline} {where} beyond its 95 % interval.")
    return lines


def _of_variant(against: Against, variant: str) -> str:
    parts = []
    for better, categories, verb in (
        (False, False, "lost on"),
        (True, False, "gained on"),
        (False, True, "lost within"),
    ):
        found = [change.words for change in against.of(variant, better=better, categories=categories)]
        if found:
            parts.append(f"{verb} {listing(found, _MOST_NAMED)}")
    return f"{variant} {'; '.join(parts)}." if parts else ""


def footnote(against: Against) -> str:
    """How to read the sentences."""
    every, expected = plural(against.compared, "difference"), 0.05 * against.compared
    chance = f"{expected:.2g}" if expected < 9.5 else f"{expected:.0f}"
    return (
        f"Against {against.baseline}, paired, beyond the 95 % interval of the difference over samples (over seeds "
        f"where no samples are known), each taken alone: were all models equal, about {chance} of the {every} "
        f"here would be named all the same. Categories of fewer than {SMALL} samples are marked with their n."
    )

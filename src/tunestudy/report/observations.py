"""Sentences generated from facts: the head of the page and the summary of EXPERIMENT.md use the same ones."""

from collections.abc import Iterator, Sequence

from tunestudy.report.compare import Cell, Headline
from tunestudy.report.cost import costs, total
from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import duration, listing, plural, short_count, sig, signed
from tunestudy.report.mixtures import collapses
from tunestudy.report.overfit import find_fits
from tunestudy.report.sparsity import efficiencies
from tunestudy.report.tables import mean_and_std


def observations(facts: StudyFacts, headline: Headline) -> list[str]:
    """What the numbers say, best result first."""
    return [
        *_best(facts, headline),
        *_front(facts, headline),
        *_fits(facts),
        *_mixtures(facts),
        *_cheapest(facts),
        *_sharing(facts),
    ]


def _best(facts: StudyFacts, headline: Headline) -> Iterator[str]:
    """What tells variants apart first; then where all of them score the same."""
    alike = []
    for benchmark in facts.benchmarks:
        scored = [cell for cell in headline.rows(benchmark) if cell.summary.n]
        if not scored:
            yield f"No result on {benchmark} yet."
            continue
        best = scored if len(scored) == 1 else [cell for cell in scored if cell.best]
        if not best and scored[0].direction == "neither" and not _all_alike(scored):
            yield _ends(benchmark, scored)
            continue
        if not best:
            alike.append(f"{benchmark} ({scored[0].metric} {sig(scored[0].summary.mean)})")
            continue
        cell = best[0]
        names = listing([cell.variant for cell in best])
        reach = "lowest" if cell.direction == "lower" else "highest"
        have = "has" if len(best) == 1 else "have"
        seeds = plural(cell.summary.n, "seed")
        sentence = f"{names} {have} the {reach} {cell.metric} on {benchmark}: {mean_and_std(cell)} over {seeds}"
        if len(facts.variants) == 1:
            sentence = f"{cell.metric} of {cell.variant} on {benchmark}: {mean_and_std(cell)}, {seeds}"
        if test := cell.comparison:
            sentence += f", {signed(test.delta.mean)} to {headline.baseline}"
            if test.delta.ci_low is not None:
                sentence += f" (95 % interval {signed(test.delta.ci_low)} to {signed(test.delta.ci_high)})"
        yield sentence + "."
    if alike:
        yield f"All variants score the same on {listing(alike)}."


def _all_alike(cells: Sequence[Cell]) -> bool:
    return len({cell.summary.mean for cell in cells}) == 1


def _ends(benchmark: str, cells: Sequence[Cell]) -> str:
    """Of a metric of which neither much nor little is better."""
    ordered = sorted(cells, key=lambda cell: cell.summary.mean or 0.0)
    low, high = (f"{sig(cell.summary.mean)} ({cell.variant})" for cell in (ordered[0], ordered[-1]))
    return f"{cells[0].metric} on {benchmark} goes from {low} to {high}; neither end is the better one."


def _front(facts: StudyFacts, headline: Headline) -> Iterator[str]:
    rows = sorted(efficiencies(facts, headline), key=lambda row: row.effective or 0)
    for benchmark in facts.benchmarks:
        front = [f"{row.variant} ({short_count(row.effective)})" for row in rows if benchmark in row.on_front]
        if front:
            yield f"Best on {benchmark} for their effective parameters, fewest first: {listing(front)}."


def _fits(facts: StudyFacts) -> Iterator[str]:
    flagged = [fit.variant for fit in find_fits(facts) if fit.flagged]
    if flagged:
        yield f"Over-fitting: {listing(flagged)}; the held-out loss rises again before the last step."


def _mixtures(facts: StudyFacts) -> Iterator[str]:
    for line in collapses(facts):
        yield f"{line[:1].upper()}{line[1:]}."


def _cheapest(facts: StudyFacts) -> Iterator[str]:
    known = [(cost.trainable_params, cost.variant) for cost in costs(facts) if cost.trainable_params]
    if len({params for params, _ in known}) > 1:
        least, most = min(known), max(known, key=lambda pair: (pair[0], pair[1] != facts.baseline))
        share = f"{least[0] / most[0]:.3g} of {most[1]}'s {most[0]:,.0f}"
        yield f"{least[1]} trains the fewest parameters: {least[0]:,.0f}, {share}."


def _sharing(facts: StudyFacts) -> Iterator[str]:
    sums = total(facts)
    if sums.saved_s > 0:
        yield (
            f"Shared stages ran once: {duration(sums.shared_s)} of work in place of "
            f"{duration(sums.shared_s + sums.saved_s)}."
        )


def headline_sentence(facts: StudyFacts, headline: Headline) -> str:
    """The first thing to say about the study."""
    if facts.state == "not started":
        return (
            f"Not started: {plural(len(facts.jobs), 'job')} planned." if facts.jobs else "Nothing has been planned yet."
        )
    return next(_best(facts, headline), "This study has no benchmarks: nothing is compared.")

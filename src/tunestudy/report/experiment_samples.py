"""What EXPERIMENT.md says of samples: intervals beside the headline, regressions, categories."""

from collections.abc import Callable

from tunestudy.report.against import against_baseline, footnote, sentences
from tunestudy.report.breakdown import Breakdown, breakdowns
from tunestudy.report.compare import Headline
from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import MISSING, p_value, sig, signed
from tunestudy.report.markdown import escape, table
from tunestudy.report.resampling import Interval

_MOST_VALUES = 12


def sample_summary(facts: StudyFacts, headline: Headline) -> list[str]:
    """Sections of the summary; empty when no samples are known and nothing is compared."""
    parts: list[str] = []
    if headline.samples:
        told = "Intervals and p are over samples: what other questions would show for these very models. "
        told += "How training again would differ is what ± over seeds says, above."
        parts += ["### Over samples", told, _intervals(headline)]
    against = against_baseline(facts, headline)
    if lines := sentences(against):
        listed = "\n".join(f"- {escape(line)}" for line in lines)
        parts += [f"### Against {escape(against.baseline)}", listed, escape(footnote(against))]
    found = [part for name in facts.benchmarks for part in breakdowns(facts, headline, name)]
    if found:
        parts += ["### By category", *(text for part in found for text in _category_table(part))]
    return parts


def _intervals(headline: Headline) -> str:
    rows = []
    for cell in headline.cells:
        samples = headline.samples.get((cell.variant, cell.benchmark))
        if not cell.primary or samples is None:
            continue
        paired = samples.paired
        delta = (MISSING,) * 3
        if paired:
            delta = (signed(paired.delta.mean), _ends(paired.delta, signed), p_value(paired.p_corrected))
        named = (escape(cell.benchmark), escape(cell.variant), samples.units)
        rows.append((*named, sig(samples.score.mean), _ends(samples.score), *delta))
    heads = ("benchmark", "variant", "samples", "mean", "95 % interval", "Δ", "95 % interval of Δ", "p")
    return table(heads, rows, "No samples are known.")


def _ends(interval: Interval, words: Callable[[float], str] = sig) -> str:
    if interval.low is None or interval.high is None:
        return MISSING
    return f"{words(interval.low)} to {words(interval.high)}"


def _category_table(part: Breakdown) -> list[str]:
    rows = []
    for row in part.rows[:_MOST_VALUES]:
        cells = [row.cells.get(variant) for variant in part.variants]
        told = [MISSING if cell is None else f"{sig(cell.score.mean)} ({_ends(cell.score)})" for cell in cells]
        rows.append((escape(row.value), f"{row.units}{' (small)' if row.small else ''}", *told))
    left = len(part.rows) - _MOST_VALUES
    heads = (escape(part.column), "n", *map(escape, part.variants))
    more = [f"{left} more in the page."] if left > 0 else []
    return [f"#### {escape(part.benchmark)} by {escape(part.column)}", table(heads, rows), *more]

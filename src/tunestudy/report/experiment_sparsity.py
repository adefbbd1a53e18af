"""EXPERIMENT.md: what adapters with gates lost and kept."""

from tunestudy.report.compare import Headline
from tunestudy.report.facts import StudyFacts
from tunestudy.report.format import MISSING, count, percent, plural, sig
from tunestudy.report.markdown import code, escape, table
from tunestudy.report.sparsity import Efficiency, Pruning, efficiencies, prunings
from tunestudy.report.tables import mean_and_std

_FIRST = 5
"""Modules named in the order of pruning; the page has more."""


def sparsity_summary(facts: StudyFacts, headline: Headline) -> list[str]:
    """The section's parts; none for a study without gates."""
    rows = efficiencies(facts, headline)
    if not rows:
        return []
    heads = ["variant", "gates at zero", "wanted", "trainable", "effective"]
    for name in facts.benchmarks:
        heads += [escape(name), "per million effective parameters"]
    heads.append("on the Pareto front of")
    lines = [_first_pruned(pruning) for pruning in prunings(facts)]
    return ["### Sparsity", table(heads, [_row(facts, row) for row in rows]), *(["\n".join(lines)] if lines else [])]


def _row(facts: StudyFacts, row: Efficiency) -> list[object]:
    lost = "no gates" if not row.gated else percent(row.sparsity.mean)
    if row.sparsity.std is not None:
        lost += f" ± {percent(row.sparsity.std)}"
    cells: list[object] = [escape(row.variant), lost, percent(row.target), count(row.trainable), count(row.effective)]
    for name in facts.benchmarks:
        cells += [mean_and_std(row.cells[name]), sig(row.per_million(name))]
    return [*cells, escape(", ".join(sorted(row.on_front))) or MISSING]


def _first_pruned(pruning: Pruning) -> str:
    first = ", ".join(f"{code(one.module)} (step {one.half_by:,.0f})" for one in pruning.order[:_FIRST])
    kept = f"; {plural(pruning.untouched, 'module')} kept every gate" if pruning.untouched else ""
    return f"- {escape(pruning.variant)} prunes first: {first or 'nothing'}{kept}"

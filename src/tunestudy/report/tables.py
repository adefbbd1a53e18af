"""The headline as results.csv, results.md, results.tex and on the terminal."""

import csv
import io
import math

from rich.table import Table
from rich.text import Text

from tunestudy.report.compare import Cell, Headline
from tunestudy.report.format import MISSING, count, p_value, plural, sig, signed, to_ten_digits
from tunestudy.report.markdown import escape

_CELL = ("variant", "benchmark", "metric")
COLUMNS = (*_CELL, "mean", "std", "ci_low", "ci_high", "n_seeds", "delta", "p_value", "effective_params")
SAMPLE_COLUMNS = (*_CELL, "n", "mean", "ci_low", "ci_high", "delta", "delta_ci_low", "delta_ci_high", "p_value")


def to_csv(headline: Headline) -> str:
    """One line per variant, benchmark and metric; what is not known is empty; `p_value` is the corrected one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in headline.cells:
        summary, test = cell.summary, cell.comparison
        values = [summary.mean, summary.std, summary.ci_low, summary.ci_high]
        last = [
            *((test.delta.mean, test.p_corrected) if test else (None, None)),
            headline.effective_params[cell.variant],
        ]
        writer.writerow(
            [cell.variant, cell.benchmark, cell.metric, *map(_digits, values), summary.n, *map(_digits, last)]
        )
    return out.getvalue()


def samples_csv(headline: Headline) -> str:
    """One line per variant and benchmark: intervals and the corrected `p_value` are over samples, not over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(SAMPLE_COLUMNS)
    for cell in headline.cells:
        samples = headline.samples.get((cell.variant, cell.benchmark))
        if not cell.primary or samples is None:
            continue
        score, paired = samples.score, samples.paired
        delta = (paired.delta.mean, paired.delta.low, paired.delta.high, paired.p_corrected) if paired else (None,) * 4
        values = map(_digits, (score.mean, score.low, score.high, *delta))
        writer.writerow([cell.variant, cell.benchmark, cell.metric, samples.units, *values])
    return out.getvalue()


def _digits(value: float | None) -> str:
    return "" if value is None else f"{to_ten_digits(value):.10g}"


def to_markdown(headline: Headline) -> str:
    """A table per benchmark, and how to read it."""
    parts = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in headline.cells):
        rows = headline.rows(benchmark)
        parts.append(f"### {escape(benchmark)} — {escape(rows[0].metric)}\n")
        sizes, rule = (" effective parameters |", "--:|") if headline.gated else ("", "")
        parts.append(f"| variant | mean ± std | 95 % interval | n | Δ to baseline | p | |{sizes}")
        parts.append(f"|:--|--:|--:|--:|--:|--:|:--|{rule}")
        parts += ["| " + " | ".join(map(escape, [*_texts(cell), *_size(headline, cell)])) + " |" for cell in rows]
        parts.append("")
    parts += [escape(line) for line in (*explanation(headline), power_note(headline)) if line]
    return "\n".join(parts) + "\n"


def _texts(cell: Cell) -> list[str]:
    summary, test = cell.summary, cell.comparison
    interval = MISSING if summary.ci_low is None else f"{sig(summary.ci_low)} to {sig(summary.ci_high)}"
    last = test.verdict if test else cell.why_no_comparison
    delta, p = (signed(test.delta.mean), p_value(test.p_corrected)) if test else (MISSING, MISSING)
    return [cell.variant, mean_and_std(cell), interval, str(summary.n), delta, p, last or summary.note]


def _size(headline: Headline, cell: Cell) -> list[str]:
    """Effective parameters, where some variant prunes."""
    return [count(headline.effective_params[cell.variant])] if headline.gated else []


def mean_and_std(cell: Cell) -> str:
    """`0.951 ± 0.017`; without ± where there is no spread to give."""
    summary = cell.summary
    return sig(summary.mean) if summary.std is None else f"{sig(summary.mean)} ± {sig(summary.std)}"


def explanation(headline: Headline) -> list[str]:
    """How the numbers were made, in sentences."""
    if headline.baseline is None:
        return []
    corrected = {"holm": "Holm-corrected", "bonferroni": "Bonferroni-corrected", "none": "not corrected"}
    family = "1 comparison" if headline.comparisons == 1 else f"{headline.comparisons} comparisons"
    return [
        "± is the sample standard deviation over seeds; intervals are 95 % by Student's t.",
        f"Δ and p compare with {headline.baseline}, paired by seed: exact two-sided sign-flip test, "
        f"{corrected[headline.correction]} over {family}, level {headline.alpha:g}.",
    ]


def power_note(headline: Headline) -> str:
    """What to know when the test could not have decided, whatever the difference; empty when it could everywhere."""
    powerless = [cell for cell in headline.cells if cell.comparison and cell.comparison.significant is None]
    if not powerless:
        return ""
    pairs = max(len(cell.comparison.seeds) for cell in powerless if cell.comparison)
    smallest = min(cell.comparison.p_smallest for cell in powerless if cell.comparison)
    family = plural(headline.comparisons, "comparison")
    return (
        f"With {plural(pairs, 'seed')} and {family} the smallest p the sign-flip test can reach is {smallest:.2g}, "
        f"above {headline.alpha:g}: it cannot call any difference significant, however large. It could with "
        f"{seeds_needed(headline)} seeds; until then the intervals are what there is to judge by."
    )


def seeds_needed(headline: Headline) -> int:
    """The least number of seeds at which a difference could be significant after correction."""
    family = 1 if headline.correction == "none" else max(1, headline.comparisons)
    return math.ceil(1 + math.log2(family / headline.alpha))


def to_latex(headline: Headline) -> str:
    """A booktabs table: variants down, benchmarks across; the best mean of a column in bold."""
    benchmarks = list(dict.fromkeys(cell.benchmark for cell in headline.cells))
    by_place = {(cell.variant, cell.benchmark): cell for cell in headline.cells if cell.primary}
    heads = [f"{_tex(name)} ({_tex(headline.rows(name)[0].metric)})" for name in benchmarks]
    sizes = ["Effective parameters"] if headline.gated else []
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\begin{{tabular}}{{l{'r' * (len(benchmarks) + len(sizes))}}}",
        "    \\toprule",
        f"    {' & '.join(['Variant', *heads, *sizes])} \\\\",
        "    \\midrule",
    ]
    for variant in dict.fromkeys(cell.variant for cell in headline.cells):
        cells = [_tex_cell(by_place[variant, name]) for name in benchmarks]
        cells += [_tex(count(headline.effective_params[variant]))] * len(sizes)
        lines.append(f"    {' & '.join([_tex(variant), *cells])} \\\\")
    caption = " ".join(_tex(sentence) for sentence in ["Mean ± standard deviation over seeds.", *explanation(headline)])
    lines += ["    \\bottomrule", "  \\end{tabular}", f"  \\caption{{{caption}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _tex_cell(cell: Cell) -> str:
    summary = cell.summary
    if summary.mean is None:
        return "---"
    spread = "" if summary.std is None else f" \\pm {_tex_number(sig(summary.std))}"
    mean = _tex_number(sig(summary.mean))
    mean = f"\\mathbf{{{mean}}}" if cell.best else mean
    return f"${mean}{spread}$ \\small($n={summary.n}$)"


def _tex_number(text: str) -> str:
    return text.replace("−", "-")


_TEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "−": r"$-$",
    "—": "---",
    "\n": " ",
}


def _tex(text: str) -> str:
    return "".join(_TEX_SPECIAL.get(character, character) for character in text)


def _over_samples(headline: Headline, cell: Cell) -> str:
    """`0.71 to 0.78 of 500`: what other questions of the kind might have said."""
    samples = headline.samples.get((cell.variant, cell.benchmark))
    return MISSING if samples is None else f"{sig(samples.score.low)} to {sig(samples.score.high)} of {samples.units}"


def to_terminal(headline: Headline) -> list[Table]:
    """The same for the screen, one table per benchmark."""
    tables = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in headline.cells):
        rows = headline.rows(benchmark)
        table = Table(
            title=Text(f"{benchmark} — {rows[0].metric}"), title_justify="left", box=None, padding=(0, 2, 0, 0)
        )
        for name, justify in (
            ("variant", "left"),
            ("mean ± std", "right"),
            ("n", "right"),
            ("Δ", "right"),
            ("p", "right"),
            ("95 % over samples", "right"),
        ):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("")
        if headline.gated:
            table.add_column("effective parameters", justify="right", no_wrap=True)
        for cell in rows:
            variant, mean, _, n, delta, p, note = (Text(text) for text in _texts(cell))
            last = [Text(text) for text in _size(headline, cell)]
            samples = Text(_over_samples(headline, cell))
            table.add_row(variant, mean, n, delta, p, samples, note, *last, style="bold" if cell.best else "")
        tables.append(table)
    return tables

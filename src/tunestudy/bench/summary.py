"""From what became of every row to a benchmark's score: means, groups, categories, and what could not be judged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tunestudy.bench import judge
from tunestudy.bench.metrics import metric
from tunestudy.bench.public import by_letter
from tunestudy.bench.tasks import UNJUDGED, Scored, task
from tunestudy.config.benchmark import Benchmark, PublicBenchmark

Unit = Sequence[Scored]
"""What counts once: a row, or all rows of a group."""


def summary_of(benchmark: Benchmark, scored: Sequence[Scored]) -> dict[str, Any]:
    """`summarise` as the kind of benchmark wants it; of a public one also `title` and `compat`."""
    if (totals := getattr(task(benchmark.task), "totals", None)) is not None:
        return asdict(totals(scored))
    if not isinstance(benchmark, PublicBenchmark):
        return summarise(scored, primary="accuracy")
    letters = by_letter(benchmark)
    primary = "accuracy" if letters else metric(benchmark.definition.metric).NAME
    if benchmark.judge is not None and not letters:
        asked = [row for row in scored if not row.problem or row.problem.startswith(UNJUDGED)]
        judge.refuse_unjudged([row.problem for row in asked], benchmark.judge)
        primary = judge.NAME
    judges = None if letters else benchmark.judge
    understands = not letters and (judges is None or judges.prompts.extract is not None)
    told = {"title": benchmark.definition.title, "compat": benchmark.compat}
    return told | summarise(scored, primary=primary, understands=understands)


def summarise(scored: Sequence[Scored], *, primary: str, understands: bool = False) -> dict[str, Any]:
    """`primary`, `metrics`, `aggregate`, `counts`, `categories` of eval/<benchmark>.json.

    A group counts once, as the smallest score of its rows. `metrics` has the primary one, and `<primary> (<way>)` for
    every other way of computing it whose value differs. understands: the metric looks for an answer in what was said,
    so a row where it found none is counted as unparsed. There must be at least one row.
    """
    assert scored, "a benchmark without rows is refused before it is scored"
    units = _units(scored)
    value = _mean(units, None)
    metrics = {primary: value}
    for way in sorted({way for row in scored for way in row.others}):
        if (other := _mean(units, way)) != value:
            metrics[f"{primary} ({way})"] = other
    return {
        "primary": primary,
        "metrics": metrics,
        "aggregate": "all_of_group" if any(row.group for row in scored) else "mean",
        "counts": _counts(scored, understands=understands),
        "categories": _categories(units),
    }


def _units(scored: Iterable[Scored]) -> list[Unit]:
    """Groups in the order of their first row; a row without one is its own."""
    units: dict[tuple[bool, str], list[Scored]] = {}
    for row in scored:
        units.setdefault((bool(row.group), row.group or row.id), []).append(row)
    return list(units.values())


def _mean(units: Sequence[Unit], way: str | None) -> float:
    """In 0…1; way: another one of computing a row's score."""
    return sum(min(_value(row, way) for row in unit) for unit in units) / len(units)


def _value(row: Scored, way: str | None) -> float:
    return row.value if way is None else row.others.get(way, row.value)


def _counts(scored: Sequence[Scored], *, understands: bool) -> dict[str, int]:
    """Only what happened."""
    unjudged = sum(row.problem.startswith(UNJUDGED) for row in scored)
    counts = {
        "unparsed": sum(understands and not row.problem and row.understood is None for row in scored),
        "undecodable": sum(bool(row.problem) for row in scored) - unjudged,
        "unjudged": unjudged,
    }
    return {name: count for name, count in counts.items() if count}


def _categories(units: Sequence[Unit]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Column → value → how many count, and their mean."""
    parts: dict[str, dict[str, list[Unit]]] = {}
    for unit in units:
        for column, value in unit[0].categories.items():
            parts.setdefault(column, {}).setdefault(value, []).append(unit)
    return {
        column: {value: {"n": len(part), "score": _mean(part, None)} for value, part in sorted(values.items())}
        for column, values in parts.items()
    }

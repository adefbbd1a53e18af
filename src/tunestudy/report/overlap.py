"""Benchmark rows that the training data hold as well: how many, which, and what scores are without them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunestudy.report.facts import Score, Settings, StudyFacts, mean
from tunestudy.report.format import listing, percent, plural
from tunestudy.report.values import mapping, number, texts, whole

KINDS = {
    "text+image": "same question, same image",
    "image": "same image, another question",
    "text": "same text",
}
"""Kind in overlap.json → words; `image` is the least: what was asked was not learnt."""

ASKED = ("text+image", "text")
SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A benchmark against one training set; jobs of the same data say the same and appear once."""

    benchmark: str
    dataset: str
    stages: str
    variants: str
    rows: int
    records: int | None
    found: tuple[tuple[str, int, str, str], ...]
    """Words of a kind, rows, their share, and pairs such as `row 7 = record 9`."""
    note: str
    not_checked: str

    @property
    def is_clean(self) -> bool:
        """Whether all was looked for and nothing found."""
        return not (self.found or self.note or self.not_checked)


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A variant's mean score with and without the rows that overlap; None where none is left."""

    benchmark: str
    variant: str
    score: float
    known: float
    """Mean number of units, rows or groups of rows, whose question was trained on."""
    without: float | None
    seen: float
    """Those whose image was, with this question or another."""
    without_images: float | None


def compared(facts: StudyFacts) -> list[Compared]:
    """One line per benchmark, training set and outcome, in the order of benchmarks; empty where nothing was looked
    for."""
    variants: dict[tuple[str, str], list[str]] = defaultdict(list)
    stages: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    told: dict[tuple[str, str], tuple[Score, Settings]] = {}
    for variant in facts.variants:
        for job in facts.last_jobs(variant):
            for score in job.scores.values():
                for of_set in _sets(score):
                    outcome = {name: value for name, value in of_set.items() if name != "stages"}
                    key = (score.benchmark, json.dumps(outcome, sort_keys=True))
                    told.setdefault(key, (score, of_set))
                    stages[key] |= dict.fromkeys(texts(of_set.get("stages")))
                    if variant not in variants[key]:
                        variants[key].append(variant)
    order = {name: place for place, name in enumerate(facts.benchmarks)}
    lines = [
        _line(score, {**of_set, "stages": list(stages[key])}, listing(variants[key]))
        for key, (score, of_set) in told.items()
    ]
    return sorted(lines, key=lambda line: order.get(line.benchmark, len(order)))


def clean(lines: Iterable[Compared]) -> list[tuple[str, str]]:
    """(benchmark, training sets in which none of its rows were found), those with the same sets together."""
    sets: dict[str, dict[str, None]] = defaultdict(dict)
    for line in lines:
        if line.is_clean:
            sets[line.benchmark][line.dataset] = None
    benchmarks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for benchmark, datasets in sets.items():
        benchmarks[tuple(datasets)].append(benchmark)
    return [(", ".join(names), ", ".join(datasets)) for datasets, names in benchmarks.items()]


def _sets(score: Score) -> Iterator[Settings]:
    """What overlap.json says of each training set; what could not be looked for at all counts as one."""
    yield from (mapping(of_set) for of_set in _items(score.overlap.get("sets")))
    for reason in [score.overlap.get("not_checked"), *texts(score.overlap.get("gaps"))]:
        if reason:
            yield {"not_checked": str(reason)}


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _line(score: Score, of_set: Settings, variants: str) -> Compared:
    rows = whole(score.overlap.get("rows")) or 0
    found = []
    for kind, words in KINDS.items():
        told = mapping(mapping(of_set.get("found")).get(kind))
        if known := whole(told.get("rows")):
            pairs = [texts(pair) for pair in _items(told.get("examples"))][:SHOWN]
            examples = ", ".join(f"{pair[0]} = {pair[1]}" for pair in pairs if len(pair) == 2)
            found.append((words, known, percent(known / rows if rows else None), examples))
    return Compared(
        benchmark=score.benchmark,
        dataset=str(of_set.get("dataset") or "—"),
        stages=listing(texts(of_set.get("stages"))),
        variants=variants,
        rows=rows,
        records=whole(of_set.get("records")),
        found=tuple(found),
        note=str(of_set.get("note") or ""),
        not_checked=str(of_set.get("not_checked") or ""),
    )


def cleaned(facts: StudyFacts) -> list[Cleaned]:
    """Scores with and without the rows that overlap, means over seeds; of benchmarks and variants that have such."""
    found = []
    for benchmark in facts.benchmarks:
        for variant in facts.variants:
            scores = [job.scores[benchmark] for job in facts.last_jobs(variant) if benchmark in job.scores]
            parts = [part for score in scores if (part := _without(score)) is not None]
            if parts and any(part[1] or part[3] for part in parts):
                columns = [mean([part[i] for part in parts]) for i in range(5)]
                score, known, without, seen, without_images = columns
                found.append(
                    Cleaned(
                        benchmark=benchmark,
                        variant=variant,
                        score=score or 0.0,
                        known=known or 0.0,
                        without=without,
                        seen=seen or 0.0,
                        without_images=without_images,
                    )
                )
    return found


Parts = tuple[float, int, float | None, int, float | None]


def _without(score: Score) -> Parts | None:
    """Score; known units, score without; units with known images, score without those too.

    None where nothing overlaps, or where the score is no mean of its predictions.
    """
    told = mapping(score.overlap.get("row_ids"))
    known = {row for kind in ASKED for row in texts(told.get(kind))}
    seen = known | set(texts(told.get("image")))
    if not seen:
        return None
    units = _units(score.predictions)
    values = [value for value, _ in units.values()]
    overall = mean(values)
    if overall is None or abs(overall - score.metrics[score.primary]) > 1e-6:
        return None
    left, left_too = ([value for value, rows in units.values() if not rows & out] for out in (known, seen))
    return overall, len(units) - len(left), mean(left), len(units) - len(left_too), mean(left_too)


def _units(predictions: Path) -> dict[str, tuple[float, set[str]]]:
    """Group, or row without one → its smallest score, and its rows. Empty where the file cannot be read."""
    units: dict[str, tuple[float, set[str]]] = {}
    try:
        lines = [mapping(json.loads(line)) for line in predictions.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError):
        return {}
    for line in lines:
        row = str(line.get("id"))
        own = number(line.get("score"))
        value = float(bool(line.get("correct"))) if own is None else own
        before, rows = units.get(str(line.get("group") or row), (value, set()))
        units[str(line.get("group") or row)] = (min(before, value), rows | {row})
    return units


def overlap_warnings(facts: StudyFacts) -> Iterator[str]:
    """One line per benchmark and training set with known questions or images, or that could not be compared."""
    for line in compared(facts):
        for words, rows, share, _ in line.found:
            yield (
                f"benchmark {line.benchmark}: {plural(rows, 'row')} of {line.rows:,} ({share}) with the {words} as "
                f"records of {line.dataset}, which {line.variants} trained on"
            )
        if line.not_checked:
            of_set = "" if line.dataset == "—" else f" against {line.dataset}"
            yield f"benchmark {line.benchmark} was not checked for overlap{of_set}: {line.not_checked}"

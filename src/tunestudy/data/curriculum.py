"""Curricula: every sample's place in an order by column or by score. A pure function of the data, never of the seed.

Values lie in a small sealed folder of their own, by sample id, beside the data caches: arms that train on the same
data in different orders share one cache of tokens.
"""

import hashlib
import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import AnyDataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.order import Curriculum
from tunestudy.data.corpus import Corpus
from tunestudy.data.select import HELD_OUT, is_held_out, split_name
from tunestudy.data.sources import Folders
from tunestudy.data.survey import survey
from tunestudy.records.atomic import temporary_beside
from tunestudy.records.manifest import seal

Indices = NDArray[np.int64]

Value = int | float | str | None
"""What a sample is sorted by. None: it has no place in the order."""

EXAMPLES = 3
"""Records without a usable value that are named."""

LARGEST = sys.float_info.max

VALUES = "values.jsonl"

_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Places:
    """The samples' places in a curriculum."""

    of_samples: Indices
    """(N,) from 0, −1 for a sample that the stage leaves out."""
    values: NDArray[np.float64] | None = None
    """(N,) the numbers that samples are sorted by, NaN for one without; None where they are sorted by text."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For data.json: what it was ordered by, and what was left out."""


def places_of(values: Sequence[Value], corpus: Corpus, order: Curriculum) -> Indices:
    """(N,) the place of each sample among those that have a value; −1 for those that have none or lie outside `take`.

    values: (N,) all numbers or all text. Equal values stand in the order of their sample ids, whatever the direction.
    """
    ranks = _dense_ranks(values)
    if order.direction == "descending":
        ranks = np.where(ranks < 0, ranks, ranks.max(initial=0) - ranks)
    names = list(corpus.sample_ids)
    known = np.flatnonzero(ranks >= 0).tolist()
    ordered = sorted(known, key=lambda i: (ranks[i], names[i], corpus.source[i]))
    first, last = (round(share * len(ordered)) for share in order.take)
    places = np.full(len(corpus), -1, np.int64)
    places[ordered[first:last]] = np.arange(last - first)
    return places


def numbers_of(values: Sequence[Value]) -> NDArray[np.float64] | None:
    """(N,) values as numbers, NaN where there is none or no finite one; None for text."""
    if any(isinstance(value, str) for value in values):
        return None
    found = np.array([math.nan if value is None else value for value in values], np.float64)
    return np.where(np.isfinite(found), found, math.nan)


def _dense_ranks(values: Sequence[Value]) -> Indices:
    """(N,) 0, 1, … by value, equal for equal ones; −1 for None."""
    distinct = sorted({value for value in values if value is not None}, key=_sort_key)
    rank_of: dict[Value, int] = {value: rank for rank, value in enumerate(distinct)}
    return np.fromiter((-1 if value is None else rank_of[value] for value in values), np.int64, len(values))


def _sort_key(value: int | float | str) -> tuple[Any, ...]:
    return natural(value) if isinstance(value, str) else (value,)


def natural(text: str) -> tuple[Any, ...]:
    """A sort key under which runs of digits count as numbers; texts that only differ in zeros are still apart."""
    parts: list[tuple[int, int, str]] = []
    for part in filter(None, _DIGITS.split(text)):
        digits = part.lstrip("0")
        parts.append((1, len(digits), digits) if part.isdecimal() else (0, 0, part))
    return (*parts, (-1, 0, text))


def column_values(
    corpus: Corpus, column: str, datasets: Mapping[str, AnyDataset], folders: Folders, *, key: str
) -> tuple[list[Value], dict[str, Any]]:
    """(N,) a column's value of each sample, and {"kind", "rejected": {data set: {reason: n}}, "examples": […]}.

    Reads the records once more; nothing is tokenised. Text that is a number in every record counts as numbers. Where
    some records hold numbers and others text, the rarer kind is rejected. Raises StudyError at `key` where a data set
    has no such column, or too many records without a value.
    """
    found: list[Any] = [None] * len(corpus)
    for name, dataset in datasets.items():
        of_samples = {
            source: corpus.of_source(index).tolist()
            for index, source in enumerate(corpus.sources)
            if split_name(source)[0] == name
        }
        if not of_samples:  # it only evaluates
            continue
        for index, value in _aligned(corpus, of_samples, _column_of(name, dataset, folders, column, key)):
            found[index] = value
    kind, usable = _of_one_kind(found)
    rejected = _rejected(found, usable, kind, corpus, datasets, key)
    return usable, {"kind": kind, **rejected}


def _column_of(
    name: str, dataset: AnyDataset, folders: Folders, column: str, key: str
) -> Iterator[tuple[str, str, Any]]:
    """(source, record id, value) of every chosen record."""
    seen, first = False, None
    for columns, record in survey(name, dataset, folders).records_with_columns():
        first = columns if first is None else first
        seen = seen or column in columns
        held_out = is_held_out(record.split_id, dataset.held_out)
        yield f"{name}{HELD_OUT}" if held_out else name, record.id, columns.get(column)
    if not seen:
        known = list(first or ())
        near = get_close_matches(column, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known)}"
        raise StudyError(
            at(key),
            f"no record of the data set {name} has a column {column!r}; {hint}",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )


def _aligned(
    corpus: Corpus, of_samples: Mapping[str, list[int]], records: Iterable[tuple[str, str, Any]]
) -> Iterator[tuple[int, Any]]:
    """(sample, value): samples of a source stand in the order of its records, of which some were not tokenised."""
    waiting = {source: iter(samples) for source, samples in of_samples.items()}
    next_one = {source: next(samples, None) for source, samples in waiting.items()}
    for source, record_id, value in records:
        sample = next_one.get(source)
        if sample is not None and corpus.sample_ids[sample] == record_id:
            yield sample, value
            next_one[source] = next(waiting[source], None)
    assert all(sample is None for sample in next_one.values()), "a sample of no record: the data changed meanwhile"


def _of_one_kind(found: Sequence[Any]) -> tuple[str, list[Value]]:
    """The kind that most values have, `numbers` or `text`, and the values of that kind; None in place of others."""
    kinds = Counter(kind for value in found if (kind := _kind(value)) is not None)
    if kinds["number"] == 0 and all(_parsed(value) is not None for value in found if _kind(value) == "text"):
        return "numbers", [_parsed(value) if _kind(value) else None for value in found]
    wanted = "number" if kinds["number"] >= kinds["text"] else "text"
    usable = [cast(Value, value) if _kind(value) == wanted else None for value in found]
    return {"number": "numbers", "text": "text"}[wanted], usable


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text" if value.strip() else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return "number" if -LARGEST <= value <= LARGEST else None  # `isfinite` cannot take an integer of 400 digits


def _is_missing(value: Any) -> bool:
    """A null, blank text, or the NaN that some readers put in place of nothing."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def _parsed(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _rejected(
    found: Sequence[Any],
    usable: Sequence[Value],
    kind: str,
    corpus: Corpus,
    datasets: Mapping[str, AnyDataset],
    key: str,
) -> dict[str, Any]:
    """Counts and examples of the samples without a usable value; StudyError above a data set's `max_rejected`."""
    reasons: dict[str, Counter[str]] = {}
    examples: dict[str, list[str]] = {}
    for index, value in enumerate(usable):
        if value is None:
            name = split_name(corpus.sources[corpus.source[index]])[0]
            reason = "no value" if _is_missing(found[index]) else f"not {'a number' if kind == 'numbers' else 'text'}"
            reasons.setdefault(name, Counter())[reason] += 1
            of_name = examples.setdefault(name, [])
            if len(of_name) < EXAMPLES:
                of_name.append(f"{corpus.sample_ids[index]}: {found[index]!r:.40}")
    counts = np.bincount(corpus.source, minlength=len(corpus.sources))
    for name, counted in reasons.items():
        total = sum(int(counts[i]) for i, source in enumerate(corpus.sources) if split_name(source)[0] == name)
        if counted.total() > datasets[name].max_rejected * total:
            told = ", ".join(f"{reason} {count}" for reason, count in counted.most_common())
            raise StudyError(
                at(key),
                f"{counted.total()} of {total} records of {name} cannot be ordered ({told}; such as "
                f"{'; '.join(examples[name])}), over the data set's max_rejected ({datasets[name].max_rejected:g})",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
    shown = [example for of_name in examples.values() for example in of_name]
    return {"rejected": {name: dict(of_name) for name, of_name in reasons.items()}, "examples": shown[:EXAMPLES]}


def column_folder(caches: Path, data: str, column: str) -> Path:
    """Where a column's values of the data cache `data` are kept."""
    return caches / f"{data[:16]}-{hashlib.sha256(column.encode()).hexdigest()[:16]}"


def write_values(folder: Path, corpus: Corpus, values: Iterable[Value], facts: Mapping[str, Any]) -> None:
    """Seal a folder of values: one line of {"source", "id", "value"} per sample, and what else is known of them."""
    prepared = temporary_beside(folder)
    prepared.mkdir(parents=True)
    try:
        with open(prepared / VALUES, "w", encoding="utf-8") as file:
            for index, value in enumerate(values):
                row = {"source": corpus.sources[corpus.source[index]], "id": corpus.sample_ids[index], "value": value}
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        (prepared / "facts.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
        seal(prepared, folder, {"kind": "order"})
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def read_values(folder: Path, corpus: Corpus) -> tuple[list[Value], dict[str, Any]]:
    """(N,) what `write_values` left, and its facts. The caller has checked the manifest."""
    with open(folder / VALUES, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    same = len(rows) == len(corpus) and all(
        row["id"] == name for row, name in zip(rows, corpus.sample_ids, strict=True)
    )
    assert same, f"{folder.name} belongs to other samples"
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return [row["value"] for row in rows], facts

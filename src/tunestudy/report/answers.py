"""Predictions as numbers: what each row of a benchmark scored. Texts stay in their files until the gallery wants some.

Sixty jobs on fifteen benchmarks of a thousand rows are close to a million lines, so a file is parsed whole only when
its questions are new; in all others ids are compared and scores are found by pattern.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from tunestudy.records.redact import redactor
from tunestudy.report.facts import Score
from tunestudy.report.values import mapping

Values = NDArray[np.float64]
Places = NDArray[np.int64]

# A quotation mark inside a JSON text is always escaped, so neither of these occurs within what a model wrote.
_VERDICT = b', "correct": '
_ID = re.compile(rb'\{"id": "(?:[^"\\]|\\.)*", ')
_SCORE = re.compile(rb'(true|false), "score": (null|[-+.0-9eE]+)[,}]')


@dataclass(frozen=True, eq=False)
class Questions:
    """The rows of a benchmark, R of them in the order of their ids, and the U units that count once each."""

    ids: tuple[str, ...]
    unit_of: Places
    """(R,): the rotations of a circular question are one unit; else every row is its own."""
    cluster_of: Places
    """(U,): units that share an image are one cluster, since an image that is hard to see is so for all of them."""
    categories: dict[str, list[str]]
    """Column → the value of every unit (U), redacted; empty where it has none."""

    @property
    def units(self) -> int:
        return len(self.cluster_of)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model scored."""

    questions: Questions
    rows: Values
    """(R,): in 0…1."""
    lines: tuple[int, ...]
    """(R): which line of the file each row is, blank ones not counted."""

    @property
    def units(self) -> Values:
        """(U,): a unit is worth what its worst row is."""
        worst = np.full(self.questions.units, np.inf)
        np.minimum.at(worst, self.questions.unit_of, self.rows)
        return worst


@dataclass(frozen=True, eq=False)
class _Known:
    """Questions whose lines begin with these, in a file's order."""

    heads: tuple[bytes, ...]
    order: tuple[int, ...]
    """Of the lines by id."""
    questions: Questions


class Shelf:
    """Reads prediction files, each of them once; those with the same rows share their `Questions`."""

    def __init__(self) -> None:
        self._read: dict[Path, Answers | None] = {}
        self._known: dict[tuple[object, ...], list[_Known]] = defaultdict(list)

    def answers(self, score: Score) -> Answers | None:
        """None when the file is absent, broken, or says nothing of rows."""
        if score.predictions not in self._read:
            self._read[score.predictions] = self._parse(score)
        return self._read[score.predictions]

    def _parse(self, score: Score) -> Answers | None:
        key = (score.benchmark, score.kind, score.aggregate, score.rows_sha256)
        try:
            lines = [line for line in score.predictions.read_bytes().split(b"\n") if line]
            for known in self._known[key]:
                same = len(lines) == len(known.heads) and all(map(bytes.startswith, lines, known.heads))
                if same and (scores := quick(lines)) is not None:
                    return _answers(known, scores)
            rows = rows_of(lines)
            known, scores = _learn(lines, rows, grouped=score.aggregate == "all_of_group"), [score_of(r) for r in rows]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not rows:
            return None
        held = next((other for other in self._known[key] if other.questions.ids == known.questions.ids), None)
        if held is not None:  # the same rows, written otherwise
            known = replace(known, questions=held.questions)
        if known.heads:
            self._known[key].append(known)
        return _answers(known, scores)


def _learn(lines: Sequence[bytes], rows: Sequence[dict[str, Any]], *, grouped: bool) -> _Known:
    ids = [str(row["id"]) for row in rows]
    order = tuple(sorted(range(len(ids)), key=ids.__getitem__))
    heads = [match.group() for line in lines if (match := _ID.match(line))]
    usual = len(heads) == len(lines)
    return _Known(tuple(heads) if usual else (), order, questions_of([rows[i] for i in order], grouped=grouped))


def _answers(known: _Known, scores: Sequence[float]) -> Answers | None:
    values = np.array(scores, dtype=np.float64)[list(known.order)]
    return Answers(known.questions, values, known.order) if ((values >= 0) & (values <= 1)).all() else None


def rows_of(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The objects of JSON lines. Raises ValueError where one is broken."""
    rows = from_json(b"[" + b",".join(line for line in lines if line.strip()) + b"]")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return list(rows)


def quick(lines: Sequence[bytes]) -> list[float] | None:
    """Scores of lines as a worker writes them; None when some line is not so."""
    found = []
    for line in lines:
        _, mark, rest = line.partition(_VERDICT)
        match = _SCORE.match(rest)
        if not mark or match is None or _VERDICT in rest:
            return None
        right, value = match.groups()
        found.append(float(right == b"true") if value == b"null" else float(value))
    return found


def score_of(row: dict[str, Any]) -> float:
    """In 0…1: `score` where there is one, else whether it was `correct`. Raises ValueError, KeyError, TypeError."""
    score = row.get("score")
    value = float(bool(row["correct"])) if score is None else float(score)
    if not math.isfinite(value):
        raise ValueError("a score that is no number")
    return value


def questions_of(rows: Sequence[dict[str, Any]], *, grouped: bool) -> Questions:
    """rows: lines of predictions.jsonl in the order of their ids."""
    names = [str(row.get("group") or "") if grouped else "" for row in rows]
    keys = [(name, -1) if name else ("", place) for place, name in enumerate(names)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    unit_of = np.array([numbers[key] for key in keys], dtype=np.int64)
    first = {unit: place for place, unit in reversed(list(enumerate(unit_of.tolist())))}
    images: list[list[str]] = [[] for _ in numbers]
    for row, unit in zip(rows, unit_of.tolist(), strict=True):
        images[unit] += [str(image) for image in row.get("images") or []]
    told = [mapping(rows[first[unit]].get("categories")) for unit in range(len(numbers))]
    clean = cache(redactor())
    columns = dict.fromkeys(str(column) for of in told for column in of)
    return Questions(
        ids=tuple(str(row["id"]) for row in rows),
        unit_of=unit_of,
        cluster_of=clusters(images),
        categories={clean(column): [clean(str(of.get(column) or "")) for of in told] for column in columns},
    )


def clusters(images: Iterable[Sequence[str]]) -> Places:
    """A number for each unit, equal where units share an image, also by way of others; (U,) from 0 without gaps."""
    parent: list[int] = []
    first: dict[str, int] = {}

    def root(unit: int) -> int:
        while parent[unit] != unit:
            parent[unit] = unit = parent[parent[unit]]
        return unit

    for unit, seen in enumerate(images):
        parent.append(unit)
        for image in seen:
            parent[root(unit)] = root(first.setdefault(image, unit))
    numbers: dict[int, int] = defaultdict(lambda: len(numbers))
    return np.array([numbers[root(unit)] for unit in range(len(parent))], dtype=np.int64)

"""Predictions as numbers: what each row of a benchmark scored. Texts stay in their files until the gallery wants some.

Sixty jobs on fifteen benchmarks of a thousand rows are close to a million lines, so a file is parsed whole only when
its questions are new; of all others, ids and scores are found by pattern.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from tunestudy.report.facts import Score
from tunestudy.report.values import mapping

Values = NDArray[np.float64]
Places = NDArray[np.int64]

# A quotation mark inside a JSON text is always escaped, so neither pattern can match within what a model wrote.
_IDS = re.compile(rb'^\{"id": "((?:[^"\\]|\\.)*)", ', re.MULTILINE)
_SCORES = re.compile(rb'"correct": (true|false), "score": (null|[-+.0-9eE]+)[,}]')


@dataclass(frozen=True, eq=False)
class Questions:
    """The rows of a benchmark, R of them in the order of their ids, and the U units that count once each."""

    ids: tuple[str, ...]
    unit_of: Places
    """(R,): the rotations of a circular question are one unit; else every row is its own."""
    cluster_of: Places
    """(U,): units that share an image are one cluster, since an image that is hard to see is so for all of them."""
    categories: dict[str, list[str]]
    """Column → the value of every unit (U); empty where it has none."""

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


class Shelf:
    """Reads prediction files, each of them once; benchmarks with the same rows share their `Questions`."""

    def __init__(self) -> None:
        self._read: dict[Path, Answers | None] = {}
        self._questions: dict[tuple[object, ...], Questions] = {}

    def answers(self, score: Score) -> Answers | None:
        """None when the file is absent, broken, or says nothing of rows."""
        if score.predictions not in self._read:
            self._read[score.predictions] = self._parse(score)
        return self._read[score.predictions]

    def _parse(self, score: Score) -> Answers | None:
        try:
            data = score.predictions.read_bytes()
            ids, scores = quick(data) or slow(data)
            order = sorted(range(len(ids)), key=ids.__getitem__)
            if not ids or not all(0 <= value <= 1 for value in scores):
                return None
            key = (score.benchmark, score.kind, score.aggregate, score.rows_sha256, tuple(ids[i] for i in order))
            if key not in self._questions:
                rows = lines_of(data)
                self._questions[key] = questions_of([rows[i] for i in order], grouped=score.aggregate == "all_of_group")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Answers(self._questions[key], np.array([scores[i] for i in order]), tuple(order))


def lines_of(data: bytes) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file. Raises ValueError where it is broken."""
    rows = from_json(b"[" + b",".join(line for line in data.split(b"\n") if line.strip()) + b"]")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return list(rows)


def quick(data: bytes) -> tuple[list[str], list[float]] | None:
    """Ids and scores of lines as a worker writes them; None when some line is not so."""
    num_lines = sum(1 for line in data.split(b"\n") if line)
    ids, scores = _IDS.findall(data), _SCORES.findall(data)
    if not num_lines == len(ids) == len(scores):
        return None
    plain = [json.loads(b'"' + text + b'"') if b"\\" in text else text.decode() for text in ids]
    return plain, [float(right == b"true") if value == b"null" else float(value) for right, value in scores]


def slow(data: bytes) -> tuple[list[str], list[float]]:
    """The same of any lines that have an id and a verdict. Raises ValueError, KeyError, TypeError."""
    rows = lines_of(data)
    return [str(row["id"]) for row in rows], [score_of(row) for row in rows]


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
    columns = dict.fromkeys(str(column) for of in told for column in of)
    return Questions(
        ids=tuple(str(row["id"]) for row in rows),
        unit_of=unit_of,
        cluster_of=clusters(images),
        categories={column: [str(of.get(column) or "") for of in told] for column in columns},
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

"""The kinds of benchmark, one module each, named as the study file names them (`type: exact_match`).

A module has `VERSION`, the `version` of its settings, which is raised when its scores change; and
`score(scorer, rows, benchmark) -> list[Scored]`.
It may have `read_rows(name, benchmark, job, folder, tokenizer, eyes) -> list[Row]`, where its rows are no questions
with answers; and `totals(scored) -> Totals`, where its metrics are no means of rows. One that reads, asks and counts by
itself has only `VERSION` and `evaluate(asking) -> Evaluated`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tunestudy.bench.metrics import Target
from tunestudy.data.images import ImageFacts

UNJUDGED = "unjudged"
"""A problem that begins so was the judge's, not the image's."""


@dataclass(frozen=True)
class Question:
    """What a model is given: token ids (P,), and the images whose tokens are among them, in their order."""

    ids: tuple[int, ...]
    images: tuple[ImageFacts, ...] = ()


@dataclass(frozen=True)
class Row:
    """One question: the prompt's token ids (P,), the reference answer's text, and the choices if there are any."""

    id: str
    prompt_ids: tuple[int, ...]
    reference: str
    choices: tuple[str, ...] = ()
    """Texts of the options, in the order in which they are shown."""
    images: tuple[ImageFacts, ...] = ()
    """In the order of their tokens in the prompt."""
    target: Target | None = None
    """What a metric compares an answer with; None: the reference alone."""
    asked: str = ""
    """The question as a person reads it."""
    group: str = ""
    """Rows of one group count once, and only if all are right: the rotations of a question."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Column → value."""
    problem: str = ""
    """Why it cannot be asked (an image that cannot be decoded): it counts as wrong, and is never left out."""

    @property
    def question(self) -> Question:
        return Question(self.prompt_ids, self.images)


@dataclass(frozen=True)
class Scored:
    """What the model said to a row: a line of predictions.jsonl."""

    id: str
    prediction: str
    reference: str
    correct: bool
    """Whether `score` is all that a row can have."""
    score: float | None = None
    """In 0…1 (of a text's probability: bits per byte); None: 1 if correct, else 0."""
    understood: str | None = None
    """The answer that the metric took from the prediction; None where it found none or looked for none."""
    asked: str = ""
    group: str = ""
    categories: Mapping[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    """SHA-256 of each image."""
    problem: str = ""
    """What kept the row from being asked or judged."""
    judgement: str = ""
    """What a judge replied about it, if one was asked."""
    others: Mapping[str, float] = field(default_factory=dict)
    """The score by other ways of computing it, where they differ."""

    @property
    def value(self) -> float:
        """The row's score in 0…1."""
        return float(self.correct) if self.score is None else self.score


def answered(row: Row, prediction: str, *, correct: bool) -> Scored:
    """The line of a row that is right or wrong."""
    return Scored(
        row.id,
        prediction,
        row.reference,
        correct,
        asked=row.asked,
        group=row.group,
        categories=dict(row.categories),
        images=tuple(image.sha256 for image in row.images),
        problem=row.problem,
    )


@dataclass(frozen=True)
class Totals:
    """The metrics of all rows together."""

    primary: str
    metrics: Mapping[str, float]
    aggregate: str = "mean"
    """How rows' scores make the primary one: `mean`; or `by_bytes`, their mean weighted by `others["bytes"]`."""


@dataclass(frozen=True)
class Asking:
    """What a task gets that evaluates by itself; the same on every rank."""

    name: str
    """The benchmark's, in the study."""
    benchmark: Any
    base_dir: Path
    """The study file's folder."""
    cache: Path
    """Of the study: what all its jobs may reuse."""
    scorer: Any
    """The model, a `bench.scorer.Scorer`."""
    together: Callable[[Callable[[list[Any]], list[Any]], list[Any]], list[Any]]
    """`together(run, items)`: `run(items)`, with the work shared between the ranks; every rank gets all results."""


@dataclass(frozen=True)
class Evaluated:
    """What such a task has found; the same on every rank."""

    scored: list[Scored]
    totals: Totals
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More keys of eval/<benchmark>.json."""


def task(kind: str) -> ModuleType:
    """The module of a benchmark's `task`."""
    return import_module(f"tunestudy.bench.tasks.{kind}")

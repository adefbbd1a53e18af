"""What an answer is worth; one module per metric, named as definitions name them (`metric: anls`).

A module has `NAME`, the metric's name in tables; `WAYS`, those of `compat` that differ, `official` first;
and `verdict(prediction, target, way) -> Verdict`, a pure function of its arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, cast

from tunestudy.config.benchmark import Compat


@dataclass(frozen=True)
class Target:
    """What an answer is compared with."""

    answers: tuple[str, ...]
    """Every right answer; of multiple choice the text of the right option."""
    choices: tuple[str, ...] = ()
    """Texts of the options, in the order in which they are shown: A, B, …"""
    letter: str = ""
    """Of the right option."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Columns of the record that the metric needs: a precision, a type of answer, a data set's name."""


@dataclass(frozen=True)
class Verdict:
    """What one answer is worth."""

    score: float
    """0…1."""
    understood: str | None = None
    """The answer that was taken from the text; None where none was found."""


class Metric(Protocol):
    """What a metric's module offers."""

    NAME: str
    WAYS: tuple[Compat, ...]

    def verdict(self, prediction: str, target: Target, way: Compat) -> Verdict: ...


def metric(name: str) -> Metric:
    """The module of that name."""
    return cast(Metric, import_module(f"tunestudy.bench.metrics.{name}"))

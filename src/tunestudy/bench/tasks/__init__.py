"""The kinds of benchmark, one module each, named as the study file names them (`type: exact_match`).

A module has `VERSION` (raised when its scores change), and `score(scorer, rows, benchmark) -> list[Scored]`.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from tunestudy.data.images import ImageFacts


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
    images: tuple[ImageFacts, ...] = ()
    """In the order of their tokens in the prompt."""

    @property
    def question(self) -> Question:
        return Question(self.prompt_ids, self.images)


@dataclass(frozen=True)
class Scored:
    """What the model said to a row."""

    id: str
    prediction: str
    reference: str
    correct: bool


def task(kind: str) -> ModuleType:
    """The module of a benchmark's `type`."""
    return import_module(f"tunestudy.bench.tasks.{kind}")

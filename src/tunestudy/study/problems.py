"""Several mistakes told together, so that a study file is put right in one go."""

from collections.abc import Sequence
from typing import NamedTuple

from tunestudy.config.errors import StudyError
from tunestudy.study.source import KeyPath


class Mistake(NamedTuple):
    """What is wrong with settings, found by who knows nothing of files and lines."""

    path: KeyPath
    """Below what the finder was given: a stage, or the stages of a variant."""
    message: str


class CombinedError(StudyError):
    """All mistakes found in one reading; printed one per line, in the order of the file."""

    def __init__(self, errors: Sequence[StudyError]) -> None:
        first = errors[0]
        super().__init__(first.place, first.message, exit_code=first.exit_code)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def raise_all(errors: Sequence[StudyError]) -> None:
    """Raise what was collected: nothing, the one error, or all of them without repetitions."""
    unique = list({str(error): error for error in errors}.values())
    if len(unique) == 1:
        raise unique[0]
    if unique:
        raise CombinedError(sorted(unique, key=lambda error: (error.place.file, error.place.line)))

"""The one error a user sees: what is wrong, where, and what to do."""

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command, and the contract with shell scripts around it."""

    DONE = 0
    STUDY_WRONG = 2
    PREFLIGHT_REFUSED = 3
    JOBS_FAILED = 4
    INTERRUPTED = 75


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a mistake stands: a dotted key, and the file and line once they are known."""

    key: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}" if where and self.key else where or self.key


def at(key: str, *, file: str = "", line: int = 0) -> Place:
    """The place of `key`; the loader adds file and line to those that were made without."""
    return Place(key=key, file=file, line=line)


class StudyError(Exception):
    """A mistake of the user's, told without a traceback.

    `exit_code` is `Exit.STUDY_WRONG` for the study file and the command line,
    `Exit.PREFLIGHT_REFUSED` for a machine or data that cannot do what the study asks.
    """

    def __init__(self, where: Place | str, message: str, *, exit_code: Exit = Exit.STUDY_WRONG) -> None:
        self.place = where if isinstance(where, Place) else Place(key=where)
        self.message = message
        self.exit_code = exit_code
        super().__init__(message)

    def __str__(self) -> str:
        where = str(self.place)
        return f"{where}: {self.message}" if where else self.message

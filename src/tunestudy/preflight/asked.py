"""What is asked: whether one study, as far as it is still to do, can be carried out from here."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.preflight.hosts import Difference, Facts, told_and_compared
from tunestudy.records.layout import StudyDir
from tunestudy.study.hosts import Host
from tunestudy.study.load import LoadedStudy


@dataclass(frozen=True)
class Asked:
    """A study, its jobs that are still to do, and its results folder."""

    loaded: LoadedStudy
    unfinished: Sequence[Job]
    folder: StudyDir
    starts: bool
    """Whether processes of the worker are to be started at all: of jobs, or of a measurement."""
    draws: bool = False
    """Whether pools that are drawn here are drawn before a job needs them, as `run` does."""

    @property
    def study(self) -> Study:
        return self.loaded.study

    @property
    def resources(self) -> Resources:
        return self.loaded.study.resources

    @property
    def base(self) -> Path:
        """What paths of the study file are relative to."""
        return self.loaded.path.parent

    @property
    def starts_here(self) -> bool:
        """Whether what is started is carried out by the Python that runs here."""
        return self.starts and self.resources.uses_this_python

    @property
    def is_local(self) -> bool:
        """Whether this program starts the jobs itself."""
        return self.resources.executor == "local"

    @property
    def is_spread(self) -> bool:
        """Whether what is started takes several hosts that can be asked now; SLURM and Ray choose theirs later."""
        return self.starts and self.resources.is_spread and self.is_local

    @cached_property
    def hosts(self) -> list[tuple[Host, Facts | Difference, list[Difference]]]:
        """Each host, what it told, and what keeps it from working as this machine does. Raises StudyError."""
        return told_and_compared(self.loaded)

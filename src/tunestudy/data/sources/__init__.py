"""Where records come from: one module per `type` of a data set, found by that name.

A module has `read(dataset, folders) -> Iterator[Raw]`, the same records in the same order at every call, and
`identity(dataset, folders) -> str`, which changes when they do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, cast

from tunestudy.config.data import Dataset
from tunestudy.config.job import Job
from tunestudy.records.layout import JobDir


@dataclass(frozen=True, slots=True)
class Raw:
    """One record as it stands in its source; `problem` says why one could not even be read."""

    place: str
    """`file:line`, or the source and the record's number: for messages and the manifest of rejected records."""
    columns: dict[str, Any]
    problem: str = ""
    lost: bool = False
    """The problem is an image that could not be fetched: usual, so it is told apart and not counted as a bad record."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a source finds its files."""

    base: Path
    """The study file's folder: relative data paths start there."""
    cache: Path
    """The study's `cache/`, which holds what was fetched ahead of training."""
    image_base: Path | None = None
    """Where relative paths of a data set's images start; default: `base`."""

    @property
    def images(self) -> Path:
        return self.image_base or self.base

    @property
    def store(self) -> Path:
        """Images that lie in no file of their own, by hash."""
        return self.cache / "images"

    @classmethod
    def of(cls, job: Job, folder: JobDir) -> Self:
        """Those of a job."""
        return cls(folder.root / job.base_dir, folder.study.cache)


class Source(Protocol):
    """What a source module offers."""

    def read(self, dataset: Any, folders: Folders) -> Iterator[Raw]: ...

    def identity(self, dataset: Any, folders: Folders) -> str: ...


def source_of(dataset: Dataset) -> Source:
    """The module for this data set's `type`."""
    return cast(Source, import_module(f"tunestudy.data.sources.{dataset.type}"))  # type: ignore[attr-defined]

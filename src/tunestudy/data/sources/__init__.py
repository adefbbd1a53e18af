"""Where records come from: one module per `type` of a data set, found by that name.

A module has `read(dataset, base_dir) -> Iterator[Raw]`, the same records in the same order at every call, and
`identity(dataset, base_dir) -> str`, which changes when they do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from tunestudy.config.data import Dataset


@dataclass(frozen=True, slots=True)
class Raw:
    """One record as it stands in its source; `problem` says why one could not even be read."""

    place: str
    """`file:line`, or the source and the record's number: for messages and the manifest of rejected records."""
    columns: dict[str, Any]
    problem: str = ""


class Source(Protocol):
    """What a source module offers."""

    def read(self, dataset: Any, base_dir: Path) -> Iterator[Raw]: ...

    def identity(self, dataset: Any, base_dir: Path) -> str: ...


def source_of(dataset: Dataset) -> Source:
    """The module for this data set's `type`."""
    return cast(Source, import_module(f"tunestudy.data.sources.{dataset.type}"))  # type: ignore[attr-defined]

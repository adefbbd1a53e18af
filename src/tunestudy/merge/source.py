"""What a merge reads: each model as tensors, a slice at a time, whatever it is made of on disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tunestudy.models.tensorfiles import TensorFiles, TensorInfo

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types whose values mean what they say; 8-bit ones mean nothing without their scales."""


class Source(Protocol):
    """One model. Safe for any number of threads."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By the names that the model has on disk; tied weights once."""

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        """Flat values in the tensor's own type, as of `TensorFiles.read`."""

    def difference(self, base: "Source", name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Flat float32 values of this model minus `base`, which has the tensor, too."""

    def is_untouched(self, name: str) -> bool:
        """Whether its tensor is known to be the base's without looking, as of modules that an adapter leaves out."""


class FolderSource:
    """A model's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = TensorFiles(folder)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._files.tensors

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        return self._files.read(name, start, stop, out)

    def difference(self, base: Source, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.read(name, start, stop).to(torch.float32).sub_(base.read(name, start, stop))

    def is_untouched(self, name: str) -> bool:  # noqa: ARG002 - nothing is known of a folder before it is read
        return False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a merge reads, found and checked."""

    models: dict[str, Source]
    """In the order of the settings."""
    base: Source | None
    carried_from: Path
    """The folder whose configuration, tokenizer and processor the result gets: the base's, or the first model's."""
    identities: dict[str, Any] = field(default_factory=dict)
    """Name (the base's is `base`) → what tells its weights apart, for the provenance file."""
    folders: dict[str, Path] = field(default_factory=dict)
    """Name → its folder: a model's, or an adapter's own."""
    bases: dict[str, Path] = field(default_factory=dict)
    """Name of an adapter → the folder of its base."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Name → `full` or `adapter`."""

    def model_folder(self, name: str) -> Path:
        """The folder whose config.json describes an input's architecture: of an adapter, its base's."""
        return self.bases.get(name, self.folders[name])

    @property
    def first(self) -> Source:
        """The base, or without one the first model: whose tensors' types and order the result has."""
        return self.base if self.base is not None else next(iter(self.models.values()))

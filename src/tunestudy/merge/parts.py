"""What a method sees of a merge: one tensor's settings, and a run of its values at a time, of all models."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.merge import BASE
from tunestudy.config.model import Role
from tunestudy.merge.source import FolderSource, Inputs, Source

PART = 1 << 18
"""Values of a part: its arrays stay in a processor's cache, and Python's share of the time is small.
Sums over a whole tensor add up parts in their order, so this is part of what a result means: it does not change."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One tensor of the result, and how it comes about."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    """Of the result."""
    role: Role
    weights: Mapping[str, float]
    """Model → its weight in this role, in the order of the sum."""
    densities: Mapping[str, float]
    based: bool
    """Whether differences are taken to a base; otherwise they are the values themselves."""
    scale: float = 1.0
    normalize: bool | None = None
    t: float = 0.5
    seed: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


class Buffers:
    """Memory of one thread, used again for every part: fresh pages cost more than the arithmetic in them."""

    def __init__(self, values: int = PART) -> None:
        self.values = values
        self.read_bytes = 0
        self._kept: dict[tuple[str, torch.dtype], Tensor] = {}

    def get(self, label: str, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`count` values that hold whatever was left there."""
        kept = self._kept.get((label, dtype))
        if kept is None or kept.numel() < count:
            kept = self._kept[label, dtype] = torch.empty(max(count, self.values), dtype=dtype)
        return kept[:count]


class Part:
    """Values `start` to `stop` of one tensor. What it returns is the thread's and good until the same is asked again.

    StudyError for a value that is not a finite number, naming the model.
    """

    def __init__(self, task: Task, inputs: Inputs, index: int, start: int, stop: int, buffers: Buffers) -> None:
        self.task, self.inputs, self.buffers = task, inputs, buffers
        self.index, self.start, self.stop = index, start, stop
        self._base: Tensor | None = None

    @property
    def count(self) -> int:
        return self.stop - self.start

    def scratch(self, label: str) -> Tensor:
        """Memory to compute in, (count,) float32, not cleared."""
        return self.buffers.get(label, self.count)

    def zeros(self, label: str) -> Tensor:
        return self.scratch(label).zero_()

    def raw(self, source: Source, label: str = "raw") -> Tensor:
        """As stored, (count,)."""
        info = source.tensors[self.task.name]
        self.buffers.read_bytes += self.count * info.dtype.itemsize
        out = self.buffers.get(label, self.count, info.dtype)
        return source.read(self.task.name, self.start, self.stop, out)

    def value(self, model: str, label: str = "value") -> Tensor:
        """One model's values, (count,) float32; NaN is found in what becomes of them, by `require_finite`."""
        return self._floats(self.inputs.models[model], label)

    def base(self) -> Tensor:
        """The base's values, (count,) float32, zeros where it has none; read once, and not to be written to."""
        if self._base is None:
            has_base = self.task.based and self.inputs.base is not None
            self._base = self._floats(self.inputs.base, BASE) if has_base and self.inputs.base else self.zeros(BASE)
        return self._base

    def difference(self, model: str, label: str = "difference") -> Tensor:
        """One model's values minus the base's, (count,) float32, all finite."""
        source, base = self.inputs.models[model], self.inputs.base
        if not self.task.based or base is None:
            found = self.value(model, label)
        elif source.is_untouched(self.task.name):
            return self.zeros(label)
        elif isinstance(source, FolderSource):  # the base, read once for all models
            found = self.value(model, label).sub_(self.base())
        else:
            found = self.scratch(label).copy_(source.difference(base, self.task.name, self.start, self.stop))
            self.buffers.read_bytes += self.count * source.tensors[self.task.name].dtype.itemsize
        return self.require_finite(found)

    def require_finite(self, values: Tensor) -> Tensor:
        """The values; StudyError, naming the model that it came from, if one is infinite or NaN."""
        if math.isfinite(values.sum(dtype=torch.float32).item()) or bool(torch.isfinite(values).all()):
            return values
        sources = {BASE: self.inputs.base, **self.inputs.models}
        for name, source in sources.items():
            if source is None or self.task.name not in source.tensors:
                continue
            if not bool(torch.isfinite(self._floats(source, "blamed")).all()):
                place = at(BASE if name == BASE else f"models.{name}")
                message = f"{self.task.name} of {name} holds NaN or infinite values; a merge would spread them"
                raise StudyError(place, message, exit_code=Exit.PREFLIGHT_REFUSED)
        kind = str(values.dtype).removeprefix("torch.")
        message = f"{self.task.name}: merged values are beyond what {kind} holds; look at weights, scale and dtype"
        raise StudyError(at("models"), message, exit_code=Exit.PREFLIGHT_REFUSED)

    def result(self, merged: Tensor) -> Tensor:
        """What a method made of this part, in the result's type, (count,)."""
        if merged.is_floating_point():
            self.require_finite(merged)
        if merged.dtype is self.task.dtype:
            return merged
        found = self.buffers.get("result", self.count, self.task.dtype).copy_(merged)
        return self.require_finite(found) if found.dtype is torch.float16 else found

    def _floats(self, source: Source, label: str) -> Tensor:
        if source.tensors[self.task.name].dtype is torch.float32:
            return self.raw(source, label)
        return self.scratch(label).copy_(self.raw(source))


def num_parts(task: Task, values: int = PART) -> int:
    """An empty tensor has none."""
    return -(-task.num_values // values)

"""The methods on tensors that lie in memory, such as the differences that adapters make."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tunestudy.config.merge import MergeStage
from tunestudy.config.model import Role
from tunestudy.merge.methods import method_named
from tunestudy.merge.parts import PART, Buffers, Part
from tunestudy.merge.source import Inputs, Source
from tunestudy.merge.tasks import task_of
from tunestudy.models.tensorfiles import TensorInfo


class MemorySource:
    """One tensor of one model."""

    def __init__(self, name: str, values: Tensor) -> None:
        self._values = values.flatten()
        self.tensors: Mapping[str, TensorInfo] = {name: TensorInfo(values.dtype, tuple(values.shape), "", 0)}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Tensor | None = None) -> Tensor:
        assert name in self.tensors, name
        found = self._values[start:stop]
        return found.clone() if out is None else out[: found.numel()].copy_(found)

    def difference(self, base: Source, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        return self.read(name, start, stop).to(torch.float32).sub_(base.read(name, start, stop))

    def is_untouched(self, name: str) -> bool:  # noqa: ARG002 - values are given, nothing is known of them
        return False


def merge_differences(
    name: str, differences: Mapping[str, Tensor], settings: MergeStage, *, seed: int, role: Role | None = None
) -> Tensor:
    """The merged difference that `settings.method` makes of whole differences of one shape; float32, of that shape.

    differences: of every model of the settings, zeros for one that leaves the tensor alone. With `linear` and `slerp`
    they are merged as values. Bits are those that `merge_into` adds to a base of zeros. role: default by the name.
    StudyError for NaN and infinite values.
    """
    shape = tuple(next(iter(differences.values())).shape)
    task = task_of(name, settings, shape=shape, dtype=torch.float32, seed=seed, based=False, role=role)
    sources: dict[str, Source] = {model: MemorySource(name, differences[model]) for model in task.models}
    inputs = Inputs(models=sources, base=None, carried_from=Path())
    merged = torch.empty(task.num_values)
    if not task.num_values:
        return merged.view(shape)
    buffers, method = Buffers(), method_named(settings.method).for_tensor(task)
    parts = [
        Part(task, inputs, number, start, min(task.num_values, start + PART), buffers)
        for number, start in enumerate(range(0, task.num_values, PART))
    ]
    for look in method.looks:
        look.settle([look.of_part(part) for part in parts])
    for part in parts:
        merged[part.start : part.stop] = part.result(method.merge(part))
    return merged.view(shape)

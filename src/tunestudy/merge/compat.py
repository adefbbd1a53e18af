"""Merging as other programs define it: whole tensors in their own types, in the order of their names, on one thread."""

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.merge import BASE, TASK_VECTORS, MergeStage
from tunestudy.merge import one_stream
from tunestudy.merge.methods import Method
from tunestudy.merge.parts import Part
from tunestudy.merge.tasks import Planned


def compat_methods(planned: Sequence[Planned], settings: MergeStage, *, seed: int) -> list[Planned]:
    """The same tensors, merged by `merge/compat_<name>.py`, whose random numbers begin here."""
    module = importlib.import_module(f"tunestudy.merge.compat_{settings.compat}")
    one_stream.begin(seed)
    in_order = sorted(planned, key=lambda one: one.task.name)
    return [_whole(one, settings, module) if one.by_method else one for one in in_order]


def _whole(one: Planned, settings: MergeStage, module: Any) -> Planned:
    task = one.task

    def merge(part: Part) -> Tensor:
        def whole(name: str) -> Tensor:
            source = part.inputs.base if name == BASE else part.inputs.models[name]
            assert source is not None
            values = source.read(task.name).view(task.shape)
            part.buffers.read_bytes += values.nbytes
            return values

        models = {name: whole(name) for name in task.models}
        for values in models.values():
            part.require_finite(values)
        base = whole(BASE) if task.based else None
        if base is None and settings.method in TASK_VECTORS:  # one that the base lacks, taken as zeros there
            base = torch.zeros_like(next(iter(models.values())))
        merged: Tensor = module.merge_tensor(task.name, base, models, settings, task.role)
        return merged.flatten()

    return replace(one, begin=lambda: Method(merge), part=max(1, task.num_values))

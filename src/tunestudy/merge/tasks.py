"""Which tensors the result has, and how each comes about: checked before a byte is written."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from tunestudy.config.errors import Exit, Place, StudyError, at
from tunestudy.config.merge import BASE, TASK_VECTORS, MergeStage
from tunestudy.config.model import Role
from tunestudy.merge.methods import Method, method_named
from tunestudy.merge.parts import Task
from tunestudy.merge.passed import equal_in_all, taken
from tunestudy.merge.source import FLOATS, Inputs, Source
from tunestudy.models.roles import role_of

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True)
class Planned:
    """A tensor of the result."""

    task: Task
    begin: Callable[[], Method]
    """Called once, when the tensor's turn has come."""
    by_method: bool = True
    """Whether the stage's own method merges it, and not a policy."""
    part: int | None = None
    """Values that are merged at a time, where it is not PART."""


def plan_tensors(inputs: Inputs, settings: MergeStage, *, seed: int) -> list[Planned]:
    """All tensors of the result, in the order of the base, or of the first model without one, then what these lack.

    StudyError for tensors that some models lack, shapes that differ, and what the base lacks with `absent: error`.
    """
    known = inputs.first.tensors
    names = dict.fromkeys([*known, *(name for source in inputs.models.values() for name in source.tensors)])
    absent = absent_tensors(inputs)
    if absent and settings.absent == "error":
        raise _refused(
            at("absent"),
            f"{len(absent)} tensors are in the models and not in the base, such as {', '.join(absent[:4])}; say what "
            "becomes of them: average, zero_base, or take: with a model's name",
        )
    return [_planned(name, inputs, settings, seed, in_base=name not in absent) for name in names]


def absent_tensors(inputs: Inputs) -> list[str]:
    """What some model has and the base lacks; nothing without a base."""
    if inputs.base is None:
        return []
    found = dict.fromkeys(name for source in inputs.models.values() for name in source.tensors)
    return [name for name in found if name not in inputs.base.tensors]


def bytes_of(size: str) -> int:
    """`5GB` in bytes, units in steps of a thousand as the hub has them."""
    found = re.fullmatch(r"([0-9]+)([KMG]?B)", size)
    assert found, size
    return int(found[1]) * UNITS[found[2]]


def task_of(
    name: str,
    settings: MergeStage,
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
    based: bool = True,
    role: Role | None = None,
) -> Task:
    """The settings of one tensor, where a role's own weight or density wins over the model's."""
    role = role or role_of(name)
    return Task(
        name=name,
        shape=shape,
        dtype=dtype,
        role=role,
        weights={model: one.weight_of(role) for model, one in settings.models.items()},
        densities={model: one.density_of(role) for model, one in settings.models.items()},
        based=based and settings.method in TASK_VECTORS,
        scale=settings.scale,
        normalize=settings.normalize,
        t=settings.t,
        seed=seed,
    )


def _planned(name: str, inputs: Inputs, settings: MergeStage, seed: int, *, in_base: bool) -> Planned:
    sources = _sources_of(name, inputs, settings, in_base=in_base)
    info = next(iter(sources.values())).tensors[name]
    _require_one_shape(name, sources)
    mergeable = info.dtype in FLOATS
    dtype = getattr(torch, settings.dtype) if settings.dtype and mergeable else info.dtype
    task = task_of(name, settings, shape=info.shape, dtype=dtype, seed=seed, based=in_base)
    if not in_base and settings.absent.startswith("take:"):
        return Planned(task, lambda: taken(next(iter(sources.values()))), by_method=False)
    if not all(source.tensors[name].dtype in FLOATS for source in sources.values()):
        _require_one_type(name, sources)
        return Planned(task, lambda: equal_in_all(sources), by_method=False)
    if not in_base and settings.absent == "average":
        mean = replace(task, normalize=True)
        return Planned(mean, lambda: method_named("linear").for_tensor(mean), by_method=False)
    base = inputs.base
    if task.based and base is not None and all(source.is_untouched(name) for source in inputs.models.values()):
        return Planned(task, lambda: taken(base), by_method=False)
    return Planned(task, lambda: method_named(settings.method).for_tensor(task))


def _sources_of(name: str, inputs: Inputs, settings: MergeStage, *, in_base: bool) -> dict[str, Source]:
    """Who gives the tensor, the base first; StudyError naming those that lack it."""
    if not in_base and settings.absent.startswith("take:"):
        chosen = settings.absent.removeprefix("take:")
        if name not in inputs.models[chosen].tensors:
            raise _refused(at("absent"), f"{name} is to be taken from {chosen}, which has no such tensor")
        return {chosen: inputs.models[chosen]}
    if lacking := [model for model, source in inputs.models.items() if name not in source.tensors]:
        holders = [model for model, source in inputs.models.items() if model not in lacking]
        holders = [*([BASE] if in_base and inputs.base is not None else []), *holders]
        message = f"{name} is in {', '.join(holders)} and not in {', '.join(lacking)}: all models need the same tensors"
        raise _refused(at(f"models.{lacking[0]}"), message)
    base = {BASE: inputs.base} if in_base and inputs.base is not None else {}
    return {**base, **inputs.models}


def _require_one_shape(name: str, sources: Mapping[str, Source]) -> None:
    (first, one), *others = sources.items()
    for model, source in others:
        if source.tensors[name].shape != one.tensors[name].shape:
            shapes = f"{list(one.tensors[name].shape)} in {first} and {list(source.tensors[name].shape)} in {model}"
            raise _refused(at(f"models.{model}"), f"{name} is {shapes}: only tensors of one shape can be merged")


def _require_one_type(name: str, sources: Mapping[str, Source]) -> None:
    (first, one), *others = sources.items()
    for model, source in others:
        if source.tensors[name].dtype is not one.tensors[name].dtype:
            kinds = [str(found.tensors[name].dtype).removeprefix("torch.") for found in (one, source)]
            message = f"{name} is {kinds[0]} in {first} and {kinds[1]} in {model}; give all models the same type"
            raise _refused(at(f"models.{model}"), message)


def _refused(place: Place, message: str) -> StudyError:
    return StudyError(place, message, exit_code=Exit.PREFLIGHT_REFUSED)

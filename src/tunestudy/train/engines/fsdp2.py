"""Several ranks that share one model: torch's `fully_shard` on raw modules, without glue around it.

Each block of the model is one unit whose weights are gathered when it computes; embeddings, final norm and head belong
to the root, which is the LossModel. Gates of a sparse adapter stay whole on every rank, since a proximal step looks at
all of them: their gradients are summed here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.utils._pytree import register_dataclass

from tunestudy.config.errors import StudyError, at
from tunestudy.config.stage import Fsdp2Settings
from tunestudy.data.batch import Batch
from tunestudy.models.decoder import blocks_of
from tunestudy.models.roles import is_gate
from tunestudy.train.engines import Engine
from tunestudy.train.engines.gates import GatesOfAllRanks
from tunestudy.train.loss import LossModel, LossSums
from tunestudy.train.world import World

register_dataclass(LossSums)
"""`fully_shard` looks for tensors in what a module returns, to know when its backward pass begins."""


class Fsdp2Engine(Engine):
    """The model of `loss_model`, sliced in place: from now on its parameters are DTensors."""

    def __init__(self, loss_model: LossModel, world: World, settings: Fsdp2Settings) -> None:
        self._size = world.size
        self._loss_model = loss_model
        self._whole = whole_parameters(loss_model, settings)
        for parameter in self._whole:
            parameter.data = parameter.data.to(world.device)  # `fully_shard` moves what it slices, and nothing else
        mesh = mesh_of(world, within_node=settings.within_node)
        self.gather_group = cpu_group(mesh, world)
        self._blocks = blocks_of(loss_model.model)
        shard(loss_model, mesh, settings, ignored=set(self._whole))
        self._gates = GatesOfAllRanks(world, [parameter for parameter in self._whole if parameter.requires_grad])

    def losses(self, batch: Batch, *, label_smoothing: float, num_sources: int) -> LossSums:
        sums: LossSums = self._loss_model(batch, label_smoothing=label_smoothing, num_sources=num_sources)
        return sums

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        root: Any = self._loss_model
        root.set_requires_gradient_sync(last)
        root.set_is_last_backward(last)
        yield
        if last:
            self._gates.add_up()

    def between_gatherings(self) -> Sequence[nn.Module]:
        return self._blocks

    def backward(self, nll_sum: Tensor, *, denominator: int, scale: Tensor | float) -> None:
        (nll_sum * (scale * self._size / denominator)).backward()  # type: ignore[no-untyped-call]


def whole_parameters(model: nn.Module, settings: Fsdp2Settings) -> list[nn.Parameter]:
    """What every rank holds whole: gates, and frozen weights where only gradients are sliced."""
    frozen_too = settings.shard == "gradients"
    return [
        parameter
        for name, parameter in model.named_parameters()
        if is_gate(name) or (frozen_too and not parameter.requires_grad)
    ]


def mesh_of(world: World, *, within_node: bool) -> DeviceMesh:
    """All ranks in a row, or hosts × ranks of a host: sliced along the last dimension, copied along the first."""
    kind = world.device.type
    if not within_node:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("slices",))
    if world.size % world.local_size:
        message = f"within_node needs equal ranks on every host: {world.size} ranks, {world.local_size} on this one"
        raise StudyError(at("fsdp2.within_node"), message)
    shape = (world.size // world.local_size, world.local_size)
    return init_device_mesh(kind, shape, mesh_dim_names=("copies", "slices"))


def cpu_group(mesh: DeviceMesh, world: World) -> Any:
    """The ranks that hold one whole model between them, as a group for CPU tensors."""
    slices = mesh["slices"] if mesh.ndim > 1 else mesh
    if world.device.type == "cpu":
        return slices.get_group()
    ranks = mesh.mesh if mesh.ndim > 1 else mesh.mesh[None]
    groups = [dist.new_group(row.tolist(), backend="gloo") for row in ranks]
    return groups[mesh.get_local_rank(0) if mesh.ndim > 1 else 0]


def shard(loss_model: LossModel, mesh: DeviceMesh, settings: Fsdp2Settings, ignored: set[nn.Parameter]) -> None:
    """Slice every block, then what is left."""
    offload: OffloadPolicy = CPUOffloadPolicy() if settings.cpu_offload else OffloadPolicy()
    blocks = blocks_of(loss_model.model)
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            reshard_after_forward=settings.shard == "all",
            offload_policy=offload,
            ignored_params=ignored,
        )
    fully_shard(loss_model, mesh=mesh, reshard_after_forward=False, offload_policy=offload, ignored_params=ignored)
    units: Any = [block for block in blocks if isinstance(block, FSDPModule)]
    root: Any = loss_model
    root.set_reduce_scatter_unused_params(True)
    if settings.prefetch:
        order = [root, *units]
        for place, unit in enumerate(order):
            unit.set_modules_to_forward_prefetch(order[place + 1 : place + 1 + settings.prefetch])
        for later, earlier in pairwise(reversed(units)):
            later.set_modules_to_backward_prefetch([earlier])

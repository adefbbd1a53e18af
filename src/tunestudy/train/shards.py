"""Tensors of which each rank holds a slice: norms, whole copies on rank 0, and slices of what a file holds.

Slices are of the first dimension, as `torch.chunk` cuts it: the first ranks hold ⌈d ÷ n⌉ rows, the last ones fewer or
none. Nothing here calls `state_dict()`, which would touch frozen weights, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Tensors = dict[str, Tensor]


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(tensor: Tensor) -> bool:
    return isinstance(tensor, DTensor)


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all together, equal on all ranks."""
    plain = [tensor for tensor in tensors if not is_sharded(tensor)]
    sliced = [tensor for tensor in tensors if is_sharded(tensor)]
    if not sliced:
        return nn.utils.get_total_norm(plain, foreach=True)
    first: Any = sliced[0]
    square = nn.utils.get_total_norm([local(tensor) for tensor in sliced]).float().square()
    dist.all_reduce(square, group=slicing_mesh(first).get_group())
    if plain:
        square += nn.utils.get_total_norm(plain).float().square()
    return square.sqrt()


def largest(tensor: Tensor) -> float:
    """The largest absolute value, equal on all ranks."""
    part = local(tensor)
    value = part.abs().max().float() if part.numel() else torch.zeros((), device=part.device)
    if isinstance(tensor, DTensor):
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=slicing_mesh(tensor).get_group())
    return float(value)


def slicing_mesh(tensor: DTensor) -> Any:
    """The dimension of the tensor's mesh that slices it; another one, if any, holds copies."""
    mesh: Any = tensor.device_mesh
    return mesh[mesh.mesh_dim_names[-1]] if mesh.ndim > 1 else mesh


def rows_of_rank(num_rows: int, num_ranks: int, rank: int) -> tuple[int, int]:
    """First row and end of a rank's slice."""
    each = -(-num_rows // num_ranks)
    return min(rank * each, num_rows), min((rank + 1) * each, num_rows)


def put(tensor: Tensor, whole: Tensor) -> None:
    """Copy this rank's part of `whole` into `tensor`."""
    rows = my_rows(tensor)
    local(tensor).copy_(whole if rows is None else whole[slice(*rows)])


def my_rows(tensor: Tensor) -> tuple[int, int] | None:
    """The rows of a sliced tensor that this rank holds."""
    if not isinstance(tensor, DTensor):
        return None
    mesh = slicing_mesh(tensor)
    return rows_of_rank(tensor.shape[0], mesh.size(), mesh.get_local_rank())


def like(whole: Tensor, parameter: Tensor) -> Tensor:
    """`whole` sliced as `parameter` is."""
    if not isinstance(parameter, DTensor) or whole.shape != parameter.shape:
        return whole
    first, end = my_rows(parameter) or (0, 0)
    part = whole[first:end].to(parameter.device)
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


class WholeCopy:
    """Whole copies on rank 0 of a fixed set of tensors, of which each rank holds slices: one gather per dtype.

    Slices travel through host memory, in a group for CPU tensors: nothing is allocated on a GPU.
    """

    def __init__(self, tensors: Mapping[str, Tensor], group: Any) -> None:
        self._group = group
        self._rank, self._size = dist.get_rank(group), dist.get_world_size(group)
        self._names: dict[torch.dtype, list[str]] = {}
        for name, tensor in tensors.items():
            self._names.setdefault(tensor.dtype, []).append(name)
        self._shapes = {name: tensor.shape for name, tensor in tensors.items()}
        self._sliced = {name for name, tensor in tensors.items() if is_sharded(tensor)}
        self._parts = {
            dtype: torch.empty(self._numel_of_rank(names, 0), dtype=dtype) for dtype, names in self._names.items()
        }
        receives = self._rank == 0
        self._received = {
            dtype: [torch.empty_like(part) for _ in range(self._size)] if receives else None
            for dtype, part in self._parts.items()
        }
        self._whole = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items() if receives
        }

    def holds(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these tensors are the ones it was made for."""
        return tensors.keys() == self._shapes.keys()

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """The whole tensors by name, on rank 0; nothing elsewhere. All ranks call. The next `take` overwrites them."""
        for dtype, names in self._names.items():
            for view, name in zip(self._views(self._parts[dtype], names, self._rank), names, strict=True):
                view.copy_(local(tensors[name]))
            dist.gather(self._parts[dtype], self._received[dtype], group=self._group, group_dst=0)
            self._assemble(dtype, names)
        return dict(self._whole)

    def _assemble(self, dtype: torch.dtype, names: Sequence[str]) -> None:
        received = self._received[dtype]
        if received is None:
            return
        for rank, buffer in enumerate(received):
            for name, view in zip(names, self._views(buffer, names, rank), strict=True):
                if name not in self._sliced:
                    if rank == 0:
                        self._whole[name].copy_(view)
                    continue
                first, end = rows_of_rank(self._shapes[name][0], self._size, rank)
                if end > first:
                    self._whole[name][first:end].copy_(view)

    def _shape_of_rank(self, name: str, rank: int) -> tuple[int, ...]:
        shape = tuple(self._shapes[name])
        if name not in self._sliced:
            return shape
        first, end = rows_of_rank(shape[0], self._size, rank)
        return (end - first, *shape[1:])

    def _numel_of_rank(self, names: Sequence[str], rank: int) -> int:
        return sum(torch.Size(self._shape_of_rank(name, rank)).numel() for name in names)

    def _views(self, flat: Tensor, names: Sequence[str], rank: int) -> Iterator[Tensor]:
        start = 0
        for name in names:
            shape = self._shape_of_rank(name, rank)
            count = torch.Size(shape).numel()
            yield flat[start : start + count].view(shape)
            start += count


@torch.no_grad()
def whole_on_rank_0(tensors: Mapping[str, Tensor], group: Any) -> Tensors:
    """Whole tensors in rank 0's host memory, gathered one at a time; a tensor under two names stays one."""
    receives = dist.get_rank(group) == 0
    found: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in found:
            whole = WholeCopy({"": tensor}, group).take({"": tensor}).get("") if is_sharded(tensor) else tensor.cpu()
            found[id(tensor)] = whole if whole is not None and receives else torch.empty(0)
    return {name: found[id(tensor)] for name, tensor in tensors.items()} if receives else {}

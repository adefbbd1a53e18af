"""Tensors of which each rank holds a slice: norms, whole copies on rank 0, and slices of what a file holds.

A slice is a run of the tensor's numbers, row by row. Torch's engine cuts between rows of the first dimension, as
`torch.chunk` does: the first ranks hold ⌈d ÷ n⌉ rows, the last ones fewer or none. DeepSpeed cuts anywhere. Nothing
here calls `state_dict()`, which would touch frozen weights, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class FlatSlice:
    """What this rank holds of a tensor that DeepSpeed has cut: `part`, from number `first` on."""

    part: Tensor
    """(n,), sharing memory; n may be 0."""
    first: int
    shape: torch.Size

    @property
    def dtype(self) -> torch.dtype:
        return self.part.dtype

    def put(self, whole: Tensor) -> None:
        """Copy this rank's numbers of `whole` into it."""
        self.part.copy_(whole.flatten()[self.first : self.first + self.part.numel()])


Held = Tensor | FlatSlice
"""What a rank holds of a tensor: all of it, or a slice."""


def held(tensor: Tensor) -> Held:
    """What this rank holds of a model's parameter."""
    cut = getattr(tensor, "ds_tensor", None)
    if cut is None:
        return tensor.detach()
    whole: Any = tensor
    first = min(dist.get_rank(whole.ds_process_group) * cut.ds_numel, whole.ds_numel)
    part = cut.detach().flatten()[: min(cut.ds_numel, whole.ds_numel - first)]
    return FlatSlice(part=part, first=first, shape=whole.ds_shape)


def local(tensor: Tensor) -> Tensor:
    """This rank's part, sharing memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(held: Held) -> bool:
    return isinstance(held, DTensor | FlatSlice)


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
    """Copy this rank's part of `whole` into a parameter."""
    part = held(tensor)
    if isinstance(part, FlatSlice):
        part.put(whole)
        if tensor.numel():  # DeepSpeed keeps small parameters whole beside their slices
            tensor.copy_(whole)
        return
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


def run_of(held: Held, rank: int) -> tuple[int, int]:
    """First number and count of what `rank` holds and gives; of what all hold, rank 0 gives."""
    if isinstance(held, FlatSlice):
        return held.first, held.part.numel()
    if not is_sharded(held):
        return 0, held.numel() if rank == 0 else 0
    first, end = my_rows(held) or (0, 0)
    row = held.shape[1:].numel()
    return first * row, (end - first) * row


class WholeCopy:
    """Whole copies on rank 0 of a fixed set of tensors, of which each rank holds slices: one gather per dtype.

    Slices travel through host memory, in a group for CPU tensors: nothing is allocated on a GPU.
    """

    def __init__(self, tensors: Mapping[str, Held], group: Any) -> None:
        """All ranks call, with the same names and dtypes."""
        self._group = group
        self._rank, size = dist.get_rank(group), dist.get_world_size(group)
        self._names: dict[torch.dtype, list[str]] = {}
        for name, tensor in tensors.items():
            self._names.setdefault(tensor.dtype, []).append(name)
        self._runs: list[dict[str, tuple[int, int]]] = [{} for _ in range(size)]
        dist.all_gather_object(
            self._runs, {name: run_of(tensor, self._rank) for name, tensor in tensors.items()}, group=group
        )
        self._parts = {dtype: self._buffer(dtype, self._rank) for dtype in self._names}
        receives = self._rank == 0
        self._received = {
            dtype: [self._buffer(dtype, rank) for rank in range(size)] if receives else None for dtype in self._names
        }
        self._whole = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items() if receives
        }

    def holds(self, tensors: Mapping[str, Held]) -> bool:
        """Whether these tensors are the ones it was made for."""
        return tensors.keys() == self._runs[self._rank].keys()

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Held]) -> Tensors:
        """The whole tensors by name, on rank 0; nothing elsewhere. All ranks call. The next `take` overwrites them."""
        for dtype, names in self._names.items():
            for view, name in zip(self._views(self._parts[dtype], names, self._rank), names, strict=True):
                if view.numel():
                    given = tensors[name]
                    view.copy_(given.part if isinstance(given, FlatSlice) else local(given).flatten())
            self._gather(dtype)
            for rank, buffer in enumerate(self._received[dtype] or ()):
                for name, view in zip(names, self._views(buffer, names, rank), strict=True):
                    first, count = self._runs[rank][name]
                    self._whole[name].view(-1)[first : first + count].copy_(view)
        return dict(self._whole)

    def _gather(self, dtype: torch.dtype) -> None:
        """Ranks give unequal amounts: those that give nothing stay out, as rank 0 does."""
        received = self._received[dtype]
        if received is not None:
            received[0].copy_(self._parts[dtype])
            coming = [(rank, buffer) for rank, buffer in enumerate(received) if rank > 0 and len(buffer)]
            requests: list[Any] = [dist.irecv(buffer, group=self._group, group_src=rank) for rank, buffer in coming]
            for request in requests:
                request.wait()
        elif len(self._parts[dtype]):
            dist.send(self._parts[dtype], group=self._group, group_dst=0)

    def _buffer(self, dtype: torch.dtype, rank: int) -> Tensor:
        return torch.empty(sum(self._runs[rank][name][1] for name in self._names[dtype]), dtype=dtype)

    def _views(self, flat: Tensor, names: Sequence[str], rank: int) -> Iterator[Tensor]:
        return iter(torch.split(flat, [self._runs[rank][name][1] for name in names]))


@torch.no_grad()
def whole_on_rank_0(tensors: Mapping[str, Tensor], group: Any) -> Tensors:
    """Whole tensors in rank 0's host memory, gathered one at a time; a tensor under two names stays one."""
    receives = dist.get_rank(group) == 0
    found: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) not in found:
            part = held(tensor)
            if isinstance(part, FlatSlice) or is_sharded(part):
                whole = WholeCopy({"": part}, group).take({"": part}).get("", torch.empty(0))
            else:
                whole = _alone(part.cpu()) if receives else torch.empty(0)
            found[id(tensor)] = whole
    return {name: found[id(tensor)] for name, tensor in tensors.items()} if receives else {}


def _alone(tensor: Tensor) -> Tensor:
    """The same numbers, not as a part of a larger buffer, which a file cannot hold."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()

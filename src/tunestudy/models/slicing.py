"""A model that no device holds whole, for forward passes only: each rank keeps a slice of every block."""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tunestudy.models.decoder import blocks_of


def slice_blocks(model: Any, num_ranks: int, device: torch.device) -> None:
    """Slice the model's blocks over all ranks, in place; embeddings, final norm and head stay whole, on `device`.

    From now on a block computes on all ranks together: every rank must make the same calls.
    """
    mesh = init_device_mesh(device.type, (num_ranks,))
    blocks = blocks_of(model)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    sliced = {id(tensor) for block in blocks for tensor in [*block.parameters(), *block.buffers()]}
    for tensor in [*model.parameters(), *model.buffers()]:
        if id(tensor) not in sliced:
            tensor.data = tensor.data.to(device)

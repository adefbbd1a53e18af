"""Two gloo ranks share a tiny InternVL with all components in slices; prints the largest difference to a whole one.

As JSON by rank: of the loss, and of every gradient as a share of its norm. Both ranks see the same images.
"""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gradient_equality import _free_port
from tinyvision import ALL, IMAGE_TOKEN, build

from tunestudy.config.components import VisionComponents
from tunestudy.config.stage import Fsdp2Settings
from tunestudy.models.components.install import install
from tunestudy.train.engines.fsdp2 import mesh_of, shard
from tunestudy.train.world import World, open_world


class Loss(nn.Module):
    """What an engine wraps, with images."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        loss: Tensor = self.model(input_ids=ids, pixel_values=pixels, labels=ids).loss
        return loss


def differences(world: World) -> dict[str, float]:
    """Between the gradients of a model in slices and of a whole one."""
    model = build()
    install(model, VisionComponents.model_validate(ALL), seed=5)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    whole, sliced = Loss(copy.deepcopy(model)), Loss(model)
    shard(sliced, mesh_of(world, within_node=False), Fsdp2Settings(), ignored=set())
    ids = torch.tensor([[1, 2, *[IMAGE_TOKEN] * 18, 3, 4]])
    pixels = torch.randn(2, 3, 28, 28, generator=random)
    losses = [module(ids, pixels) for module in (whole, sliced)]
    for loss in losses:
        loss.backward()
    found = {"loss": float((losses[0] - losses[1]).detach().abs())}
    for (name, exact), parameter in zip(whole.named_parameters(), sliced.parameters(), strict=True):
        gathered: Any = parameter.grad
        found[name] = float((gathered.full_tensor() - exact.grad).norm() / exact.grad.norm().clamp_min(1e-6))
    return found


def _rank(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with open_world() as world:
        gathered = world.gather_objects(differences(world))
        if rank == 0:
            print(json.dumps(gathered), flush=True)


if __name__ == "__main__":
    mp.start_processes(_rank, args=(_free_port(),), nprocs=2, start_method="fork")  # the imports are done

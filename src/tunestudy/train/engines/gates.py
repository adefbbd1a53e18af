"""Gates of a sparse adapter where ranks hold slices: whole on every rank, as a proximal step looks at all of them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from tunestudy.train.world import World


class GatesOfAllRanks:
    """Their gradients, which no engine adds up."""

    def __init__(self, world: World, gates: Sequence[nn.Parameter]) -> None:
        self._size = world.size
        self._gates = gates

    def add_up(self) -> None:
        """Once per optimiser step, after its last micro-batch: the mean over ranks, as engines form it.

        A rank whose micro-batches did not use a gate (of an expert that got no token) adds zeros to the others' sum; a
        gate that no rank used stays without a gradient.
        """
        if not self._gates:
            return
        users = torch.tensor([gate.grad is not None for gate in self._gates], device=self._gates[0].device).int()
        dist.all_reduce(users)
        for gate, used in zip(self._gates, users.tolist(), strict=True):
            if used:
                gate.grad = torch.zeros_like(gate) if gate.grad is None else gate.grad
                dist.all_reduce(gate.grad.div_(self._size))

"""Gates of a sparse adapter where ranks hold slices: whole on every rank, as a proximal step looks at all of them."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import nn

from tunestudy.train.world import World


class GatesOfAllRanks:
    """Their gradients, which no engine adds up."""

    def __init__(self, world: World, gates: Sequence[nn.Parameter]) -> None:
        self._size = world.size
        self._gates = gates

    def add_up(self) -> None:
        """Once per optimiser step, after its last micro-batch: the mean over ranks, as engines form it."""
        for gate in self._gates:
            if gate.grad is not None:
                dist.all_reduce(gate.grad.div_(self._size))

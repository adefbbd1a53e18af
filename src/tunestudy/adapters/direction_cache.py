"""Directions that are computed once per optimiser step and shared by every forward pass until a tensor changes."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook

from tunestudy.adapters.direction import Direction, direction_of, is_hollow, row_norms, row_squares

SAMPLE = 16
"""Rows and columns of a large frozen tensor that are compared; of others everything is."""
LARGE = 1 << 16

_steps = 0


def _count_step(*_: Any) -> None:
    """Fused kernels such as bitsandbytes' write to parameters without telling autograd."""
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


class Stamp:
    """What a tensor was; `holds` tells whether it still is the same and unchanged.

    Autograd's version counts writes, the storage tells swaps, moves and casts (held weakly, so that its address is not
    given to another, and no memory is held). Writes through `.data` count nowhere: on a CPU the values are compared
    as well, of a frozen weight a sample of them. On an accelerator that would wait for its queue, so there whoever
    writes through `.data` outside of an optimiser calls `forget`.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.facts = _facts(tensor)
        self.storage = _storage(tensor)
        compared = tensor.device.type == "cpu" and not is_hollow(tensor)
        self.values = _values(tensor).clone() if compared else None

    def holds(self, tensor: Tensor) -> bool:
        if self.facts != _facts(tensor) or self.storage != _storage(tensor):
            return False
        return self.values is None or torch.equal(self.values, _values(tensor))


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    version = None if tensor.is_inference() else tensor._version
    steps = _steps if tensor.requires_grad else None
    return version, steps, tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _values(tensor: Tensor) -> Tensor:
    if tensor.requires_grad or tensor.numel() <= LARGE or tensor.ndim != 2:
        return tensor.detach()
    rows, columns = (max(1, size // SAMPLE) for size in tensor.shape)
    return tensor.detach()[::rows, ::columns]


class DirectionCache:
    """The direction of one adapter on one layer. `computed` counts how often it was."""

    def __init__(self) -> None:
        self.computed = 0
        self._squares: tuple[Stamp, Tensor] | None = None
        self._direction: tuple[list[Stamp], Direction] | None = None

    def direction(
        self, weight: Any, down: Tensor, up: Tensor, magnitude: Tensor, gate: Tensor | None, scale: float
    ) -> Direction:
        """The direction of W + scale·B diag(g) A. `weight` is a `dora.Weight`: read only when something changed."""
        parts = [weight.stored, down, up, magnitude, *([] if gate is None else [gate])]
        if self._direction is not None:
            stamps, direction = self._direction
            same = direction.scale == scale and len(stamps) == len(parts)
            if same and all(stamp.holds(part) for stamp, part in zip(stamps, parts, strict=True)):
                return direction
        with torch.inference_mode(False), torch.no_grad():
            norm = self._norm(weight, down, up, gate, scale)
            direction = direction_of(norm, up_OR=up, magnitude_O=magnitude, gate_R=gate, scale=scale)
        self._direction = [Stamp(part) for part in parts], direction
        return direction

    def _norm(self, weight: Any, down: Tensor, up: Tensor, gate: Tensor | None, scale: float) -> Tensor:
        self.computed += 1
        dense = weight.dense()
        if self._squares is None or not self._squares[0].holds(weight.stored):
            self._squares = Stamp(weight.stored), row_squares(dense)
        return row_norms(dense, down, up, scale=scale, gate_R=gate, squares_O=self._squares[1])

"""Features of several layers of the tower in one grid of unchanged width.

With H_l the patches after layer l, n the last layer and levels l_1 < … < l_L:

    concat:  F = H_n + W [LN_1(H_{l_1}); …; LN_L(H_{l_L})] + b
    fpn:     P_L = V_L ↓LN_L(H_{l_L}),   P_k = V_k ↓LN_k(H_{l_k}) + ↑P_{k+1},   F = H_n + conv₃ₓ₃(P_1)

where ↓ pools level k to 1/2^(k−1) of the grid by means, so that deeper levels are coarser, and ↑ repeats values. W, b
and the convolution start at zero: F = H_n exactly, while their own gradients are not zero. Seen as one linear map of
all levels, concat starts at one-hot on the last. The tower's class token passes through.

Sources: Lin et al. 2017, arXiv:1612.03144 (the top-down path, its lateral 1×1 maps and the 3×3 convolution at its end);
Yao et al. 2024, arXiv:2405.13800 (levels of a frozen ViT side by side). Zero at the start is our choice.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.internvl.modeling_internvl import InternVLVisionEncoder

from tunestudy.config.components import Pyramid


class ConcatPyramid(nn.Module):
    """One linear map of all levels side by side."""

    at_zero = ("mix.weight", "mix.bias")
    """Parameters that start at zero."""

    def __init__(self, levels: Sequence[int], *, channels: int, eps: float) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=eps) for _ in levels)
        self.mix = nn.Linear(len(levels) * channels, channels)

    def forward(self, levels_BNC: Sequence[Tensor]) -> Tensor:
        """What is added to the last layer's patches: each level (B, N, C) → (B, N, C)."""
        normed = [norm(level) for norm, level in zip(self.norms, levels_BNC, strict=True)]
        added: Tensor = self.mix(torch.cat(normed, dim=-1))
        return added


class TopDownPyramid(nn.Module):
    """A top-down path from the deepest, coarsest level to the shallowest, finest one."""

    at_zero = ("smooth.weight", "smooth.bias")

    def __init__(self, levels: Sequence[int], *, channels: int, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=eps) for _ in levels)
        self.laterals = nn.ModuleList(nn.Conv2d(channels, hidden_size, 1) for _ in levels)
        self.smooth = nn.Conv2d(hidden_size, channels, 3, padding=1)

    def forward(self, levels_BNC: Sequence[Tensor]) -> Tensor:
        """What is added to the last layer's patches: each level (B, N, C) of a square grid → (B, N, C)."""
        path_BPHW: Tensor | None = None
        for k in reversed(range(len(self.levels))):
            pooled_BCHW = halved(as_grid(self.norms[k](levels_BNC[k])), times=k)
            lateral_BPHW = self.laterals[k](pooled_BCHW)
            size = lateral_BPHW.shape[-2:]
            path_BPHW = lateral_BPHW if path_BPHW is None else lateral_BPHW + interpolate(path_BPHW, size=size)
        added_BCHW: Tensor = self.smooth(path_BPHW)
        return added_BCHW.flatten(2).transpose(1, 2)


class PyramidEncoder(InternVLVisionEncoder):  # type: ignore[misc]
    """The tower's stack of layers, whose result is its last layer's plus what the pyramid adds."""

    pyramid: ConcatPyramid | TopDownPyramid

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        """(B, 1 + N, C) → the same, as transformers' class returns it."""
        wanted, levels = set(self.pyramid.levels), []
        for number, layer in enumerate(self.layer, start=1):
            hidden_states = layer(hidden_states, **kwargs)
            if number in wanted:
                levels.append(hidden_states[:, 1:])
        added_BNC = self.pyramid(levels)
        patches_BNC = hidden_states[:, 1:] + added_BNC.to(hidden_states.dtype)
        return BaseModelOutput(last_hidden_state=torch.cat([hidden_states[:, :1], patches_BNC], dim=1))


def add_pyramid(tower: Any, settings: Pyramid) -> list[nn.Module]:
    """Give the tower's encoder a pyramid; `settings.levels` must be explicit. Returns the new modules."""
    assert settings.levels is not None
    config = tower.config
    sizes = {"channels": config.hidden_size, "eps": config.layer_norm_eps}
    if settings.how == "fpn":
        pyramid: nn.Module = TopDownPyramid(settings.levels, hidden_size=settings.hidden_size, **sizes)
    else:
        pyramid = ConcatPyramid(settings.levels, **sizes)
    tower.encoder.pyramid = pyramid
    tower.encoder.__class__ = PyramidEncoder
    return [pyramid]


def quarters(num_layers: int) -> tuple[int, ...]:
    """The last layer of each quarter of a tower: 24 → 6, 12, 18, 24."""
    return tuple(sorted({math.ceil(num_layers * quarter / 4) for quarter in (1, 2, 3, 4)}))


def as_grid(x_BNC: Tensor) -> Tensor:
    """(B, side², C) → (B, C, side, side)."""
    side = math.isqrt(x_BNC.shape[1])
    return x_BNC.transpose(1, 2).reshape(*x_BNC.shape[::2], side, side)


def halved(x_BCHW: Tensor, *, times: int) -> Tensor:
    """Means over squares of 2^times; what is left over at an edge is a mean of fewer.

    Not adaptive pooling, whose backward pass on a GPU adds up in no fixed order.
    """
    return avg_pool2d(x_BCHW, 2**times, ceil_mode=True) if times else x_BCHW

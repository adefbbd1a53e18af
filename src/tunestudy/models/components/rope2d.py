"""Axial 2D rotary position embedding of the patches of a tile, behind a gate on the angles.

With head size d, a patch in row h and column w, and frequencies f_j = θ^(−4j/d) for j = 0 … d/4 − 1:

    a(h, w) = (h·f_0 … h·f_{d/4−1}, w·f_0 … w·f_{d/4−1})          d/2 angles
    (x_i, x_{i+d/2}) → (x_i cos g·a_i − x_{i+d/2} sin g·a_i, x_{i+d/2} cos g·a_i + x_i sin g·a_i)

for queries and keys alike. The class token keeps its place: all its angles are 0. The gate g is one learned number per
layer. At g = 0 nothing is turned, cos 0 = 1 and sin 0 = 0 being exact; yet a logit's derivative by g is there

    Σ_i (a_i(m) − a_i(n)) (q_i k_{i+d/2} − q_{i+d/2} k_i)   for a query at place m and a key at n,

which is not 0, so that g leaves 0. For every g the logits depend on differences of places alone and lengths are kept,
which a blend (1 − g)·x + g·R x would break.

Sources: Su et al. 2021, arXiv:2104.09864 (rotation); Heo et al. 2024, arXiv:2403.13298 (rows and columns in a ViT).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.components import Rope2d


class Rotation(nn.Module):
    """Turns the queries, or keys, of one layer of the tower."""

    def __init__(self, settings: Rope2d, *, head_dim: int, side: int) -> None:
        """head_dim: a multiple of 4; side: patches along the edge of a tile of the usual size."""
        super().__init__()
        assert head_dim % 4 == 0, head_dim
        self.theta, self.head_dim, self.side = settings.theta, head_dim, side
        # One value, but in a row: `fully_shard` takes no scalars.
        self.angle_scale = nn.Parameter(torch.zeros(1)) if settings.gate == "zero" else None

    def forward(self, x_BTC: Tensor) -> Tensor:
        """x: (B, 1 + patches, heads · head_dim), class token first → the same shape and type; computed in float32."""
        num_patches = x_BTC.shape[1] - 1
        side = self.side if num_patches == self.side**2 else math.isqrt(num_patches)
        if side * side != num_patches:
            raise ValueError(f"{num_patches} patches are no square grid, which rope2d needs")
        angles_Tf = torch.cat([x_BTC.new_zeros(1, self.head_dim // 2, dtype=torch.float32), self.angles(side, x_BTC)])
        x_BTHd = x_BTC.reshape(*x_BTC.shape[:2], -1, self.head_dim)
        return rotate(x_BTHd, angles_Tf[:, None]).flatten(2)

    def angles(self, side: int, like: Tensor) -> Tensor:
        """(side², head_dim / 2) fp32, gated, on the device of `like`, rows first."""
        places = torch.arange(side, device=like.device, dtype=torch.float32)
        angles = axial_angles(places, places, self.head_dim, self.theta)
        return angles if self.angle_scale is None else angles * self.angle_scale.float()

    def after(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """As a forward hook of the module whose output is to be turned."""
        turned: Tensor = self(output)
        return turned


def axial_angles(rows: Tensor, columns: Tensor, head_dim: int, theta: float) -> Tensor:
    """rows (R,), columns (C,) → (R·C, head_dim / 2): of each patch, first by its row, then by its column."""
    quarter = head_dim // 4
    frequencies_f = theta ** (-torch.arange(quarter, device=rows.device, dtype=torch.float32) / quarter)
    by_row = (rows[:, None] * frequencies_f)[:, None].expand(-1, len(columns), -1)
    by_column = (columns[:, None] * frequencies_f)[None].expand(len(rows), -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (…, d), angles (…, d/2): feature i is turned with feature i + d/2. In float32, returned in x's type."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def add_rope2d(tower: Any, settings: Rope2d, *, side: int) -> list[nn.Module]:
    """Turn q and k of every layer, after the norm that the layer may have for them; returns the new modules.

    A hook on that norm's output leaves the layer's code and all names of its weights as they are.
    """
    added: list[nn.Module] = []
    for layer in tower.encoder.layer:
        attention = layer.attention
        rotation = Rotation(settings, head_dim=attention.head_dim, side=side)
        attention.rope2d = rotation
        for norm in (attention.q_norm, attention.k_norm):
            norm.register_forward_hook(rotation.after)
        added.append(rotation)
    return added

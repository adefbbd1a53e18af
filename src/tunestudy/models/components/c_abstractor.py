"""C-Abstractor, the locality-preserving projector of Honeybee, on the tower's grid of patches.

x (N patches) + position embedding → residual stage → mean pooling to √q × √q → residual stage → linear read-out.
Each stage is `depth` blocks of RegNet with squeeze-and-excitation, layer norm in place of batch norm, and SiLU:

    y = conv₁ₓ₁ → LN → SiLU → depthwise conv₃ₓ₃ → LN → SiLU → y · σ(W₂ SiLU(W₁ mean(y))) → conv₁ₓ₁ → LN
    block(x) = SiLU(y + x),   with x → LN(conv₁ₓ₁ x) where the number of channels changes

Names of parameters are those of the published weights, which load as they are.
Sources: Cha et al. 2023, arXiv:2312.06742, section 3.3 (its configuration `c-abs` gives the sizes); Radosavovic et al.
2020, arXiv:2003.13678 (the block, which Honeybee takes from timm's `RegStage`).
"""

import math

import torch
from torch import Tensor, nn

from tunestudy.config.components import CAbstractor

SQUEEZE = 0.25
"""Channels inside squeeze-and-excitation, as a share of the block's input channels."""


class ConvAbstractor(nn.Module):
    """(B, N, C) patches of a square grid → (B, num_queries, outputs)."""

    def __init__(self, settings: CAbstractor, *, channels: int, outputs: int, num_patches: int) -> None:
        super().__init__()
        hidden, side = settings.hidden_size, math.isqrt(settings.num_queries)
        shape = (1, num_patches, channels)
        self.pos_emb = nn.Parameter(torch.zeros(shape)) if settings.pos_emb else None
        self.net = nn.Sequential(
            _stage(settings.depth, channels, hidden),
            nn.AdaptiveAvgPool2d((side, side)),
            _stage(settings.depth, hidden, hidden),
        )
        deeper = [layer for _ in range(settings.mlp_depth - 1) for layer in (nn.SiLU(), nn.Linear(outputs, outputs))]
        self.readout = nn.Sequential(nn.Linear(hidden, outputs), *deeper)

    def forward(self, x_BNC: Tensor) -> Tensor:
        if self.pos_emb is not None:
            x_BNC = x_BNC + self.pos_emb
        side = math.isqrt(x_BNC.shape[1])
        grid_BCHW = x_BNC.transpose(1, 2).reshape(*x_BNC.shape[::2], side, side)
        pooled_BDhw = self.net(grid_BCHW)
        read: Tensor = self.readout(pooled_BDhw.flatten(2).transpose(1, 2))
        return read


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W). Its epsilon is torch's 1e-5, as inside timm's ConvNormAct."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNorm(nn.Module):
    """Convolution without bias, norm, and SiLU where `active`."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, groups: int = 1, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.bn = ChannelNorm(outputs)
        self.act = nn.SiLU() if active else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        result: Tensor = self.act(self.bn(self.conv(x_BCHW)))
        return result


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate that looks at the means of all. Source: Hu et al. 2018, arXiv:1709.01507."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        means = x_BCHW.mean((2, 3), keepdim=True)
        gate: Tensor = self.fc2(nn.functional.silu(self.fc1(means))).sigmoid()
        return x_BCHW * gate


class Block(nn.Module):
    """One residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, kernel=3, groups=outputs)
        self.se = SqueezeExcite(outputs, max(1, round(inputs * SQUEEZE)))
        self.conv3 = ConvNorm(outputs, outputs, active=False)
        self.downsample = ConvNorm(inputs, outputs, active=False) if inputs != outputs else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = self.conv3(self.se(self.conv2(self.conv1(x_BCHW))))
        return nn.functional.silu(inner + self.downsample(x_BCHW))


def _stage(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    """`depth` blocks by timm's names b1, b2, …; the first one changes the number of channels."""
    stage = nn.Sequential()
    for number in range(1, depth + 1):
        stage.add_module(f"b{number}", Block(inputs if number == 1 else outputs, outputs))
    return stage

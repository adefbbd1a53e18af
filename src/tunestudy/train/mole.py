"""Training a mixture of LoRA experts: what its gates are told of a batch, its balance loss, and what of it is logged.

Both balance losses are products or logarithms of means over a whole optimiser step, which no micro-batch knows. So one
factor is that of the step before, over all ranks, and the other stays a sum over tokens: the gradient does not depend
on how a step is cut up. The factor is part of the run's state, so a resumed run has it (docs/decisions/0015).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import Batch
from tunestudy.models.decoder import base_model_of, batch_told
from tunestudy.models.mole import mole_of
from tunestudy.models.mole_gates import Seen
from tunestudy.train.gates import short_name
from tunestudy.train.metrics import MoleState
from tunestudy.train.world import World

LEAST_SHARE = 1e-6
"""Below this, an expert's mean share does not raise the pull of the MoLE paper's loss any further."""
OVERALL = "overall"
"""In place of a block's name: all blocks."""


class MoleDrive:
    """The mixture of one run. Its methods do nothing for a model without."""

    def __init__(self, model: nn.Module, settings: TrainStage) -> None:
        mole = mole_of(model) if isinstance(settings.adapter, MoleAdapter) else None
        self.blocks: list[str] = [] if mole is None else list(mole.gates)
        self.experts: tuple[str, ...] = () if mole is None else mole.experts
        self._mole = mole
        self._base = base_model_of(model)
        self._batch: Batch | None = None
        self._sums: Tensor | None = None

    @contextmanager
    def on(self, batch: Batch) -> Iterator[None]:
        """Around a micro-batch's forward and backward pass: activations that are formed again see the same tokens."""
        if self._mole is None:
            yield
            return
        with batch_told(self._base, batch):
            self._mole.scene.seen, self._batch = {}, batch
            try:
                yield
            finally:
                self._mole.scene.seen = self._batch = None

    def with_balance(self, nll_sum: Tensor, state: MoleState, *, targets: int, tokens: int) -> Tensor:
        """Σ NLL plus what, divided by `targets` like it, is this micro-batch's part of the balance loss.

        Called once after the forward pass, with the target tokens and the tokens of the whole optimiser step.
        """
        if self._mole is None:
            return nll_sum
        seen, self._mole.scene.seen = self._mole.scene.seen, None  # nothing is counted when formed again
        assert seen is not None and seen.keys() == set(self.blocks), "not every block's gate took part"
        real_BT = self._mole.scene.tokens.real
        found = torch.stack([measured(seen[name], real_BT, self._settings.top_k).cpu() for name in self.blocks])
        self._sums = found if self._sums is None else self._sums + found
        pulls = self._pulls(state)
        if pulls is None:
            return nll_sum
        parts = [
            (total_of(seen[name].wished, seen[name].shape, real_BT) * pull.to(seen[name].wished)).sum()
            for name, pull in zip(self.blocks, pulls, strict=True)
        ]
        share = self._settings.balance_coefficient * targets / tokens
        return nll_sum + share * torch.stack([part.to(nll_sum.device) for part in parts]).sum().to(nll_sum.dtype)

    def end_step(self, world: World, state: MoleState, *, tokens: int) -> None:
        """Add up what all ranks measured in this step. All ranks call, after its last micro-batch."""
        if self._mole is None:
            return
        sums = torch.zeros(len(self.blocks), columns(len(self.experts)), dtype=torch.float64)
        sums = world.all_reduce_sum((sums if self._sums is None else self._sums).to(world.device)).cpu()
        self._sums = None
        state.before = (sums / tokens).tolist()
        state.window = (sums + torch.tensor(state.window or 0.0, dtype=torch.float64)).tolist()
        state.window_tokens += tokens

    def rows(self, state: MoleState) -> list[dict[str, Any]]:
        """Rows of mole_log.csv about the steps since the last ones, all blocks first; [] without a step."""
        if self._mole is None or not state.window_tokens:
            return []
        means = torch.tensor(state.window, dtype=torch.float64) / state.window_tokens
        values = balance_of(means, self._settings)
        overall = balance_overall(means, self._settings)
        return [
            self._row(OVERALL, means.mean(0), overall),
            *(
                self._row(short_name(name), row, value)
                for name, row, value in zip(self.blocks, means, values, strict=True)
            ),
        ]

    def _row(self, module: str, means: Tensor, balance: float | None) -> dict[str, Any]:
        count = len(self.experts)
        usage = dict(zip(self.experts, means[:count].tolist(), strict=True))
        return {"module": module, "entropy": float(means[-1]) / math.log(count), "balance": balance, **usage}

    @property
    def _settings(self) -> MoleAdapter:
        assert self._mole is not None
        return self._mole.settings

    def _pulls(self, state: MoleState) -> Tensor | None:
        """(blocks, E) fp64: what a token's wished shares are multiplied with; None where nothing pulls."""
        settings, count, blocks = self._settings, len(self.experts), len(self.blocks)
        if settings.balance == "none" or settings.balance_coefficient == 0:
            return None
        if not state.before:  # equal shares: a constant, without a gradient
            return torch.full((blocks, count), (1.0 if settings.balance == "switch" else -count) / blocks)
        means = torch.tensor(state.before, dtype=torch.float64)
        if settings.balance == "switch":
            return count * means[:, 2 * count : 3 * count] / blocks
        shares_E = means[:, count : 2 * count].mean(0).clamp(min=LEAST_SHARE)
        return (-1 / shares_E / blocks).expand(blocks, count)


def columns(experts: int) -> int:
    return 3 * experts + 1


@torch.no_grad()
def measured(seen: Seen, real_BT: Tensor | None, top_k: int | None) -> Tensor:
    """(3E + 1,) fp64, sums over real tokens: usage, wished shares, loads, and the entropy of the shares in nats.

    Usage: an expert's share; with `top_k` how often it was among the chosen ones, over k. Loads: how often its wished
    share was the largest, equal ones counting in parts; with `top_k` the same as usage.
    """
    used, wished = seen.used.double(), seen.wished.double()
    if top_k is None:
        largest = wished == wished.amax(-1, keepdim=True)
        usage, loads = used, largest / largest.sum(-1, keepdim=True)
    else:
        usage = loads = (used > 0) / top_k
    entropy = -torch.special.xlogy(used, used).sum(-1, keepdim=True)
    return total_of(torch.cat([usage, wished, loads, entropy], dim=-1), seen.shape, real_BT)


def total_of(values: Tensor, shape: tuple[int, int], real_BT: Tensor | None) -> Tensor:
    """Sum over real tokens of values that can be broadcast to (B, T, n): (n,)."""
    values_BTN = values.expand(*shape, values.shape[-1])
    if real_BT is not None:
        values_BTN = values_BTN * real_BT.to(values_BTN)[..., None]
    return values_BTN.sum((0, 1))


def balance_of(means: Tensor, settings: MoleAdapter) -> list[float | None]:
    """Each block's balance loss without its coefficient: 1, or E·log E, where shares are equal."""
    count = len(settings.experts)
    wished, loads = means[:, count : 2 * count], means[:, 2 * count : 3 * count]
    if settings.balance == "switch":
        return [float(value) for value in count * (wished * loads).sum(1)]
    if settings.balance == "mole":
        return [float(value) for value in -wished.clamp(min=LEAST_SHARE).log().sum(1)]
    return [None] * len(means)


def balance_overall(means: Tensor, settings: MoleAdapter) -> float | None:
    """The loss: the mean of the blocks' (Switch), or that of the shares' means over blocks (the MoLE paper's)."""
    if settings.balance == "switch":
        known = [value for value in balance_of(means, settings) if value is not None]
        return sum(known) / len(known)
    return balance_of(means.mean(0, keepdim=True), settings)[0]

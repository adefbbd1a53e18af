"""Training the gates of SoRA and SDoRA: what happens to them around each optimiser step.

Before the step, with gradients complete and unscaled: `l1_lambda`'s gradient, so that clipping sees it. After it: the
proximal step. Both depend on the step, the gates and the settings alone, so they are the same on every rank, however
the step was cut into micro-batches, and after a resume.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tunestudy.adapters.gates import (
    Gated,
    gates_of,
    hard_threshold,
    num_shut,
    official_threshold,
    smallest,
    soft_threshold,
)
from tunestudy.config.adapter import GateOptions
from tunestudy.config.schedules import steps_of
from tunestudy.config.stage import TrainStage

OFFICIAL_EPSILON = 1e-6
"""Adam's ε for gates in the published code, added to √v before its bias is corrected."""
RAMP_FROM, RAMP_TO = 0.05, 0.7
"""`target_sparsity`: shares of the run between which gates are shut; nothing is pruned before, none is added after."""


class GateDrive:
    """The gates of one run. Its methods do nothing for an adapter without gates."""

    def __init__(self, model: Any, settings: TrainStage, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        self.gates: Mapping[str, Gated] = {}
        if not isinstance(settings.adapter, GateOptions):
            return
        self.gates = gates_of(model)
        assert self.gates, "an adapter with gates was attached without any"
        self._options = settings.adapter
        self._optimizer = optimizer
        self._grouped = gates_by_group(optimizer, self.gates)
        self._total_steps = total_steps
        warmup = steps_of(settings.warmup_steps, total_steps)
        self._ramp = max(warmup, round(RAMP_FROM * total_steps)), max(round(RAMP_TO * total_steps), 1)
        self._shut_before = self.sparsity()  # by the stage before: its weights are loaded, a checkpoint's not yet

    @property
    def total(self) -> int:
        """Gates, open or shut."""
        return sum(gated.gate.numel() for gated in self.gates.values())

    @torch.no_grad()
    def before_step(self) -> None:
        """Add the gradient of l1_lambda·mean|g|, and give the gates the published ε in `official` mode."""
        if not self.gates:
            return
        if self._options.l1_lambda:
            for gated in self.gates.values():
                if gated.gate.grad is not None:
                    gated.gate.grad.add_(gated.gate.sign(), alpha=self._options.l1_lambda / self.total)
        for group, _ in self._groups() if self._options.threshold == "official" else ():
            if "betas" in group:
                done = float(self._optimizer.state[group["params"][0]].get("step", 0))
                group["eps"] = OFFICIAL_EPSILON / math.sqrt(1 - group["betas"][1] ** (done + 1))

    def after_step(self, step: int) -> None:
        """The proximal step of optimiser step `step` (0-based)."""
        if not self.gates:
            return
        if self._options.target_sparsity is not None:
            self._hold_target(step)
            return
        rule = official_threshold if self._options.threshold == "official" else soft_threshold
        for group, gates in self._groups():
            rate = float(group["lr"]) if self._options.prox == "lr_scaled" else 1.0
            rule(gates, self._options.strength_at(step, self._total_steps) * rate)

    def sparsity(self) -> float:
        """Share of gates that are shut; 0 without gates."""
        return sum(self._shut(gated) for gated in self.gates.values()) / self.total if self.gates else 0.0

    def by_module(self) -> dict[str, float]:
        """Module, by a name without wrappers → share of its gates that are shut."""
        return {short_name(name): self._shut(gated) / gated.gate.numel() for name, gated in self.gates.items()}

    def taken_out(self) -> int:
        """Trainable numbers that shut gates make ineffective."""
        return sum(self._shut(gated) * gated.params_per_rank for gated in self.gates.values())

    def _groups(self) -> Iterator[tuple[dict[str, Any], dict[str, Gated]]]:
        """The optimiser's groups of gates as they are now: loading its state replaces them.

        Under DeepSpeed's stage 3 other groups are empty between steps.
        """
        for group in self._optimizer.param_groups:
            if group["params"] and id(group["params"][0]) in self._grouped:
                yield group, self._grouped[id(group["params"][0])]

    def _shut(self, gated: Gated) -> int:
        return num_shut(gated, self._options.gate_zero_tol)

    def _hold_target(self, step: int) -> None:
        """Shut as many gates as `step` should see shut: those nearest to zero. Open ones keep their value.

        A proximal step, too, that of a penalty on the number of open gates; pulling all gates by the size of the last
        one to be shut costs far more accuracy (docs/decisions/0008).
        """
        assert self._options.target_sparsity is not None
        first, last = self._ramp
        target = self._options.target_sparsity
        count = round(self.total * share_at(step + 1, first, last, target, self._shut_before))
        if count == 0:
            return
        hard_threshold(self.gates, smallest(self.gates, count))


def share_at(done: int, first: int, last: int, target: float, start: float = 0.0) -> float:
    """Share of gates to be shut after `done` steps: a cubic way from `start` at `first` to `target` at `last`.

    Source of the form: Zhu & Gupta 2017, arXiv:1710.01878.
    """
    if done >= last:
        return target
    part = max(0, done - first) / max(1, last - first)
    return start + (target - start) * (1 - (1 - part) ** 3)


def gates_by_group(optimizer: torch.optim.Optimizer, gates: Mapping[str, Gated]) -> dict[int, dict[str, Gated]]:
    """The optimiser's groups of gates, which hold nothing else, each by the id of its first parameter."""
    by_id = {id(gated.gate): (name, gated) for name, gated in gates.items()}
    found = {}
    for group in optimizer.param_groups:
        members = [by_id[id(parameter)] for parameter in group["params"] if id(parameter) in by_id]
        assert len(members) in (0, len(group["params"])), "a group of gates holds other parameters"
        if members:
            found[id(group["params"][0])] = dict(members)
    return found


def short_name(module: str) -> str:
    """`model.layers.3.self_attn.q_proj` → `layers.3.self_attn.q_proj`: the column of sparsity_log.csv."""
    return module.removeprefix("model.").removeprefix("language_model.")

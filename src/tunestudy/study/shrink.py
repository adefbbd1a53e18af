"""How many gates of a sparse adapter will be shut at the end, foreseen before it is trained.

Each proximal step pulls a gate towards zero by a threshold: `sparse_lambda` times the learning rate of the step, or
`sparse_lambda` itself. Were nothing else to move the gates, the sum of all thresholds (the *shrink budget*) would
decide which ones reach zero: those that began below it. Training moves them too, so this is a forecast of what the
strength means, not of the result; a strength that is off by a factor of a hundred shows all the same.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunestudy.config.adapter import GateOptions, SdoraAdapter, SoraAdapter
from tunestudy.config.schedules import schedule_of
from tunestudy.config.stage import TrainStage

DEAD, UNTOUCHED = 0.99, 0.01
"""Shares of shut gates from which, and below which, a strength cannot be meant."""

_MOST_POINTS = 5_000
"""Longer schedules are summed at this many evenly spaced steps."""

_HALF_OF_NORMAL = 0.6745
"""|x| is below this for half of all x from N(0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of one gated stage."""

    steps: int | None
    budget: float | None
    """How far the proximal steps pull a gate in all; None: steps unknown, or a target decides."""
    share: float | None
    """Gates at zero at the end, between 0 and 1; None: unknown."""
    dead_by: int | None
    """The step after which 99 % are shut; None: never, or unknown."""
    target: float | None
    """`target_sparsity`, which a controller holds whatever the strength."""

    def as_json(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "shrink_budget": self.budget,
            "expected_sparsity": self.share,
            "dead_by_step": self.dead_by,
            "target_sparsity": self.target,
        }

    def __str__(self) -> str:
        if self.target is not None:
            return f"held at {_percent(self.target)} by target_sparsity"
        if self.share is None or self.budget is None:
            return "unknown: the number of steps is not known before the data are read"
        dead = f", dead by step {self.dead_by:,}" if self.dead_by else ""
        return f"≈ {_percent(self.share)} shut at the end{dead} (shrink budget {self.budget:.3g})"


def forecast(stage: TrainStage, steps: int | None) -> Forecast | None:
    """What the proximal steps of a stage of `steps` steps will do; None for a stage without gates."""
    adapter = stage.adapter
    if not isinstance(adapter, SoraAdapter | SdoraAdapter):
        return None
    if adapter.target_sparsity is not None or not steps:
        share = adapter.target_sparsity
        return Forecast(steps=steps, budget=None, share=share, dead_by=None, target=share)
    reach, dead_by, pulled, first_beyond = 0.0, None, 0.0, _quantile(adapter, DEAD)
    for step, threshold, count in _thresholds(stage, adapter, steps):
        pulled += threshold * count
        reach = max(reach, pulled + (threshold if adapter.threshold == "official" else 0.0))
        if dead_by is None and reach >= first_beyond:
            dead_by = step + count
    return Forecast(steps=steps, budget=pulled, share=_share_below(adapter, reach), dead_by=dead_by, target=None)


def warnings(what: str, stage: TrainStage, seen: Forecast) -> Iterator[str]:
    """Strengths that cannot be meant, and options without effect; `what` names the stage and its variants."""
    adapter = stage.adapter
    assert isinstance(adapter, GateOptions), "a forecast is of gates"
    if seen.target is not None:
        idle = [name for name in ("prox", "threshold") if getattr(adapter, name) != _default(name)]
        if idle:
            yield f"{what}: {' and '.join(idle)} have no effect where target_sparsity sets each step's threshold"
        if stage.early_stopping_patience:
            yield f"{what}: early_stopping_patience may end the stage before target_sparsity is reached"
        if stage.load_best_model_at_end:
            yield f"{what}: load_best_model_at_end may publish weights from before target_sparsity was reached"
    elif seen.share is not None and seen.share >= DEAD:
        by = f" by step {seen.dead_by:,} of {seen.steps:,}" if seen.dead_by else ""
        yield f"{what}: {_strength(adapter)} shuts every gate{by}, the adapter is dead; {_cure(adapter, seen)}"
    elif seen.share is not None and seen.share < UNTOUCHED:
        few = f"{_percent(seen.share)} of the gates, next to none"
        yield f"{what}: {_strength(adapter)} shuts {few}; {_cure(adapter, seen)}"


def _thresholds(stage: TrainStage, adapter: GateOptions, steps: int) -> Iterator[tuple[int, float, int]]:
    """(step, threshold, how many steps it stands for) in order."""
    multiplier = schedule_of(stage, steps)
    rate = adapter.gate_learning_rate or stage.learning_rate
    stride = max(1, math.ceil(steps / _MOST_POINTS))
    for step in range(0, steps, stride):
        strength = adapter.strength_at(step, steps)
        scale = rate * multiplier(step) if adapter.prox == "lr_scaled" else 1.0
        yield step, strength * scale, min(stride, steps - step)


def _share_below(adapter: GateOptions, reach: float) -> float:
    """Share of gates that begin at most `reach` from zero.

    Textbook threshold: |g| ends at max(0, |g| − budget), so `reach` is the budget. The published code shrinks first and
    then zeroes what is left below the threshold, so a gate is shut as soon as its rest is less than two thresholds.
    """
    if adapter.gate_init == "ones":
        return 1.0 if reach >= 1 else 0.0
    return math.erf(reach / math.sqrt(2))


def _quantile(adapter: GateOptions, share: float) -> float:
    """The reach that shuts `share` of the gates."""
    if adapter.gate_init == "ones":
        return 1.0
    low, high = 0.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / math.sqrt(2)) < share else (low, middle)
    return high


def _cure(adapter: GateOptions, seen: Forecast) -> str:
    """What to write instead; the strength that would shut half is as far off as the budget is."""
    half = ""
    if seen.budget and not adapter.sparse_lambda_schedule and adapter.sparse_lambda and adapter.gate_init == "normal":
        half = f"about {adapter.sparse_lambda * _HALF_OF_NORMAL / seen.budget:.2g} would shut half, or "
    return f"{half}let target_sparsity hold the share that you want"


def _strength(adapter: GateOptions) -> str:
    strengths = adapter.sparse_lambda_schedule or (adapter.sparse_lambda or 0.0,)
    return f"sparse_lambda {' → '.join(f'{strength:g}' for strength in strengths)} with prox: {adapter.prox}"


def _default(name: str) -> Any:
    return GateOptions.model_fields[name].default


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"

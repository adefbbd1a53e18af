"""Learning-rate schedules as pure functions of the step, so that resuming one needs nothing but the step.

They stand here because `plan` forecasts with the schedule that training will follow. Values equal those of
`transformers.get_scheduler` with the same settings; a test compares them step by step.
"""

import math
from collections.abc import Callable

from tunestudy.config.stage import OptimiserSettings

Multiplier = Callable[[int], float]
"""Completed optimiser steps → share of the peak learning rate to use for the next one."""


def schedule_of(settings: OptimiserSettings, total_steps: int) -> Multiplier:
    """The schedule that the settings name, over `total_steps` optimiser steps."""
    warmup = steps_of(settings.warmup_steps, total_steps)
    decay = min(steps_of(settings.decay_steps, total_steps), max(total_steps - warmup, 0))
    floor = settings.min_lr_rate
    after_warmup: dict[str, Multiplier] = {
        "constant": lambda _: 1.0,
        "constant_with_warmup": lambda _: 1.0,
        "linear": lambda step: 1.0 - _progress(step, warmup, total_steps),
        "polynomial": lambda step: 1.0 - (1.0 - floor) * _progress(step, warmup, total_steps),
        "cosine": lambda step: _cosine(_progress(step, warmup, total_steps)),
        "cosine_with_min_lr": lambda step: floor + (1.0 - floor) * _cosine(_progress(step, warmup, total_steps)),
        "inverse_sqrt": lambda step: _inverse_sqrt(step, warmup),
        "warmup_stable_decay": lambda step: (
            floor + (1.0 - floor) * _cosine(_progress(step, total_steps - decay, total_steps))
        ),
    }
    main = after_warmup[settings.lr_scheduler_type]
    if settings.lr_scheduler_type == "constant":
        return main
    rise_from = floor if settings.lr_scheduler_type == "warmup_stable_decay" else 0.0
    return lambda step: rise_from + (1.0 - rise_from) * step / warmup if step < warmup else main(step)


def steps_of(amount: float, total_steps: int) -> int:
    """A number of steps, given as such or, below 1, as a share of all steps (rounded up)."""
    return math.ceil(amount * total_steps) if amount < 1 else int(amount)


def _progress(step: int, start: int, end: int) -> float:
    """How far `step` is between `start` and `end`, from 0 to 1."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _inverse_sqrt(step: int, warmup: int) -> float:
    """Falls as 1/√step, from 1 at the end of warm-up. Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 3."""
    timescale = warmup or 10_000
    return 1.0 / math.sqrt((step + timescale - warmup) / timescale)

"""When a running study calls for attention, and what its user expects of it. None of it changes a result."""

import math
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from tunestudy.config.base import Config, neutral

METRICS = (
    "train_loss",
    "eval_loss",
    "perplexity",
    "grad_norm",
    "learning_rate",
    "sparsity",
    "tokens_per_s",
    "gpu_memory_mb",
)
"""Columns of loss_log.csv and eval_log.csv that can be expected of; beside them `loss/<data set>`."""


class AlertSettings(Config):
    """What is watched while jobs run. Null switches one off."""

    command: str | None = neutral(None, min_length=1)
    """Run by the shell for every alert, with the alert as a JSON object on its standard input."""
    command_timeout_s: float = neutral(30.0, gt=0)
    """After which the command is killed. Jobs never wait for it."""
    loss_margin: float | None = neutral(2.0, ge=0)
    """Nats above ln V, the loss of guessing blindly among the model's V tokens."""
    stalled_after: float | None = neutral(20.0, gt=1)
    """A job without a new step for so many times its median step, while it trains."""
    stalled_least_s: float = neutral(60.0, ge=0)
    """However short its steps are."""
    slow_rank: float | None = neutral(1.5, gt=1)
    """A rank whose own work on a step takes so many times the median of the others'."""
    disk_free_share: float | None = neutral(0.05, ge=0, lt=1)
    """Of the file system with the results; also when the next checkpoint would not fit."""


class Band(Config):
    """Where a figure is expected to lie."""

    above: float | None = neutral(None)
    """The figure must be more than this."""
    below: float | None = neutral(None)
    """The figure must be less than this."""
    at_step: int | None = neutral(None, ge=0)
    """Only at the first row from this step on."""
    from_step: int | None = neutral(None, ge=0)
    """Only at rows from this step on."""
    until_step: int | None = neutral(None, ge=0)
    """Only at rows up to this step."""
    stages: tuple[str, ...] = neutral(())
    """Only of these; default: all."""
    variants: tuple[str, ...] = neutral(())
    """Only of jobs that belong to one of these; default: all."""
    stop: bool = neutral(False)
    """Stop the job that leaves the band; it counts as failed and is not started again by that run."""

    @model_validator(mode="after")
    def _consistent(self) -> "Band":
        if self.above is None and self.below is None:
            raise ValueError("expects nothing: give `above`, `below` or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"nothing lies above {self.above:g} and below {self.below:g}")
        if self.at_step is not None and (self.from_step is not None or self.until_step is not None):
            raise ValueError("at_step is one row; from_step and until_step are many: give the one or the others")
        if self.from_step is not None and self.until_step is not None and self.from_step > self.until_step:
            raise ValueError(f"no step is from {self.from_step} on and until {self.until_step}")
        return self

    @property
    def is_about_steps(self) -> bool:
        return any(step is not None for step in (self.at_step, self.from_step, self.until_step))

    def holds(self, value: float) -> bool:
        """What is no number lies in no band."""
        if math.isnan(value):
            return False
        return (self.above is None or value > self.above) and (self.below is None or value < self.below)

    @property
    def in_words(self) -> str:
        """`above 0.1, below 2.5 at step 100`."""
        bounds = [
            f"{word} {value:g}" for word, value in (("above", self.above), ("below", self.below)) if value is not None
        ]
        steps = {"at step": self.at_step, "from step": self.from_step, "until step": self.until_step}
        return " ".join([" and ".join(bounds), *(f"{word} {step}" for word, step in steps.items() if step is not None)])


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


Bands = Annotated[tuple[Band, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
Expected = dict[str, Bands]
"""By a column of the logs, or `<variant>.<benchmark>` (`*` for every variant)."""

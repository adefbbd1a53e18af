"""Sums that losses are made of, and the counters of a run. All of it goes into a full checkpoint as JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass
class Sums:
    """Σ NLL and target tokens by source, and tokens in all, over some stretch of training or an evaluation."""

    nll: list[float]
    targets: list[int]
    tokens: int = 0

    @classmethod
    def zero(cls, num_sources: int) -> Self:
        return cls(nll=[0.0] * num_sources, targets=[0] * num_sources)

    def add(self, other: "Sums") -> None:
        self.nll = [a + b for a, b in zip(self.nll, other.nll, strict=True)]
        self.targets = [a + b for a, b in zip(self.targets, other.targets, strict=True)]
        self.tokens += other.tokens

    @property
    def num_targets(self) -> int:
        return sum(self.targets)

    @property
    def loss(self) -> float | None:
        """Mean NLL of a target token in nats; None without targets."""
        return math.fsum(self.nll) / self.num_targets if self.num_targets else None

    def loss_by_source(self, names: tuple[str, ...]) -> dict[str, float | None]:
        """`loss/<source>` columns; empty when there is only one source, whose loss is the loss."""
        if len(names) < 2:
            return {}
        losses = [nll / count if count else None for nll, count in zip(self.nll, self.targets, strict=True)]
        return {f"loss/{name}": loss for name, loss in zip(names, losses, strict=True)}


@dataclass
class Best:
    """The best value of the metric at a step that has a checkpoint."""

    step: int
    metric: str
    value: float


@dataclass
class MoleState:
    """What a run remembers of the gates of a mixture: rows are blocks, see `train.mole.measured` for their columns."""

    before: list[list[float]] = field(default_factory=list)
    """Means over the tokens of the last step; empty before the first."""
    window: list[list[float]] = field(default_factory=list)
    """Sums since the last logged row."""
    window_tokens: int = 0


HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "perplexity",
    "epoch_time",
    "gpu_memory_mb",
    "trainable_params",
    "effective_params",
    "sparsity",
    "tokens",
)


@dataclass
class TrainState:
    """Where a run stands after `step` optimiser steps."""

    window: Sums
    """Since the last row of loss_log.csv."""
    epoch_sums: Sums
    """Since the epoch began."""
    step: int = 0
    samples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    window_s: float = 0.0
    epoch_s: float = 0.0
    history: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in HISTORY_COLUMNS})
    last_train_loss: float | None = None
    """Of the last logged row."""
    best: Best | None = None
    train_s: float = 0.0
    eval_s: float = 0.0
    save_s: float = 0.0
    resumed_from: list[int] = field(default_factory=list)
    lowest_eval_loss: float | None = None
    evaluations_without_gain: int = 0
    expert_window: dict[str, list[int]] = field(default_factory=dict)
    """Tokens by expert since the last logged row."""
    mole: MoleState = field(default_factory=MoleState)
    """Of a mixture of LoRA experts."""
    stopped_at: int | None = None
    """The step after which patience ran out."""

    @classmethod
    def begin(cls, num_sources: int) -> Self:
        return cls(window=Sums.zero(num_sources), epoch_sums=Sums.zero(num_sources))

    def count(self, sums: Sums, *, samples: int, seconds: float) -> None:
        """Add one optimiser step."""
        self.step += 1
        self.samples += samples
        self.tokens += sums.tokens
        self.target_tokens += sums.num_targets
        self.window.add(sums)
        self.epoch_sums.add(sums)
        self.window_s += seconds
        self.epoch_s += seconds
        self.train_s += seconds

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        best = values["best"]
        return cls(
            **{
                **values,
                "window": Sums(**values["window"]),
                "epoch_sums": Sums(**values["epoch_sums"]),
                "best": Best(**best) if best else None,
                "mole": MoleState(**values.get("mole", {})),
            }
        )

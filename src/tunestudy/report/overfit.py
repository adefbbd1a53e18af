"""Over-fitting, from the evaluations during training: where the held-out loss was lowest, and what came after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunestudy.report.facts import Curve, JobFacts, StudyFacts, mean

RISE_FLAGGED = 0.02
"""A trial is flagged when its last evaluation loss is more than this share above its lowest."""


@dataclass(frozen=True, kw_only=True)
class TrialFit:
    """One job's held-out loss."""

    seed: int
    best_step: int
    best_epoch: float | None
    best_loss: float
    last_step: int
    last_loss: float
    gap: float | None
    """Last evaluation loss − last training loss."""

    @property
    def rise(self) -> float:
        """How far the last loss lies above the lowest, as a share of it."""
        return self.last_loss / self.best_loss - 1 if self.best_loss > 0 else 0.0

    @property
    def flagged(self) -> bool:
        return self.rise > RISE_FLAGGED


@dataclass(frozen=True, kw_only=True)
class StageFit:
    """A variant's last stage over its seeds."""

    variant: str
    stage: str
    trials: list[TrialFit]

    @property
    def best_loss(self) -> float | None:
        return mean([trial.best_loss for trial in self.trials])

    @property
    def last_loss(self) -> float | None:
        return mean([trial.last_loss for trial in self.trials])

    @property
    def gap(self) -> float | None:
        return mean([trial.gap for trial in self.trials])

    @property
    def rise(self) -> float | None:
        return mean([trial.rise for trial in self.trials])

    @property
    def flagged(self) -> int:
        """How many seeds are over-fitted."""
        return sum(trial.flagged for trial in self.trials)


def find_fits(facts: StudyFacts) -> list[StageFit]:
    """One entry per variant whose last stage has evaluations."""
    fits = []
    for variant in facts.variants:
        jobs = facts.last_jobs(variant)
        trials = [trial for job in jobs if (trial := trial_fit(job))]
        if trials:
            fits.append(StageFit(variant=variant, stage=jobs[0].stage, trials=trials))
    return fits


def trial_fit(job: JobFacts) -> TrialFit | None:
    """Where a job's held-out loss was lowest; None before its first evaluation."""
    points = finite_points(job.eval_log, "eval_loss")
    if not points:
        return None
    best, last = min(points, key=lambda point: point[1]), points[-1]
    epochs = dict(finite_points(job.eval_log, "epoch"))
    train = finite_points(job.train_log, "train_loss")
    return TrialFit(
        seed=job.seed,
        best_step=int(best[0]),
        best_epoch=epochs.get(best[0]),
        best_loss=best[1],
        last_step=int(last[0]),
        last_loss=last[1],
        gap=last[1] - train[-1][1] if train else None,
    )


def finite_points(curve: Curve, column: str) -> Sequence[tuple[float, float]]:
    """(step, value) pairs of a log's column, without the rows where it is missing."""
    pairs = zip(curve.get("step", []), curve.get(column, []), strict=False)
    return [(step, value) for step, value in pairs if math.isfinite(value)]

"""Which learning rate a stage can bear: its own first steps, each at a higher rate than the one before.

    torchrun … -m tunestudy.train.lr_find FOLDER     FOLDER holds job.json and request.json

The rate rises geometrically from `from` to `to`; the loss of each step is smoothed by an exponential mean. The sweep
ends early when that is more than DIVERGED times its lowest value, or not finite. Suggested is the rate at which the
smoothed loss falls fastest per factor of the rate. Weights are thrown away. Source: Smith 2017, arXiv:1506.01186.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import LR_FIND, LR_TABLE, REQUEST, JobDir
from tunestudy.records.tables import TableLog
from tunestudy.train.finite import LossNotFiniteError
from tunestudy.train.loop import take_step
from tunestudy.train.probe import open_run
from tunestudy.train.question import opened_task
from tunestudy.train.run import Run

SMOOTHING = 0.9
DIVERGED = 3.0
UNSETTLED = 5
"""First steps that suggest nothing: the mean has not settled yet."""
COLUMNS = ("step", "learning_rate", "loss", "smoothed")

Row = dict[str, float]


def main(folder: str) -> None:
    """Sweep on this rank; rank 0 writes lr_find.csv and, last, lr_find.json."""
    job_dir = JobDir(Path(folder).resolve())
    wanted = read_json(job_dir.root / REQUEST)
    with opened_task(job_dir, tells=True) as task:
        run = open_run(task)
        try:
            rows = sweep(run, float(wanted["from"]), float(wanted["to"]), int(wanted["steps"]))
        finally:
            run.close()
        if task.world.rank == 0:
            write_results(job_dir, rows, planned=int(wanted["steps"]))


def sweep(run: Run, low: float, high: float, steps: int) -> list[Row]:
    """One row a step, until the loss diverges. Roles keep the ratio of their rates."""
    run.learner.engine.train(True)
    rows: list[Row] = []
    mean = 0.0
    for index in range(steps):
        rate = low * (high / low) ** (index / (steps - 1))
        for group in run.learner.optimizer.param_groups:
            group["lr"] = rate * group["peak_lr"] / run.settings.learning_rate
        loss = loss_of_step(run)
        if loss is None:
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed = mean / (1 - SMOOTHING ** (index + 1))
        rows.append({"step": index + 1, "learning_rate": rate, "loss": loss, "smoothed": smoothed})
        if smoothed > DIVERGED * min(row["smoothed"] for row in rows):
            break
    return rows


def loss_of_step(run: Run) -> float | None:
    """Mean loss of the next step's rows before the weights move; None when it is not finite."""
    try:
        taken = take_step(run)
    except LossNotFiniteError:
        return None
    if taken is None:
        sys.exit("the sweep was asked to stop")
    return taken.loss


def suggestion(rows: Sequence[Row]) -> float | None:
    """The rate of the steepest fall before the lowest smoothed loss; None when the loss never fell."""
    losses = np.array([row["smoothed"] for row in rows])
    rates = np.array([row["learning_rate"] for row in rows])
    lowest = int(losses.argmin()) if len(losses) else 0
    if lowest <= UNSETTLED + 1:
        return None
    slopes = np.gradient(losses, np.log(rates))[UNSETTLED:lowest]
    return float(rates[UNSETTLED + int(slopes.argmin())]) if slopes.min() < 0 else None


def write_results(folder: JobDir, rows: Sequence[Row], *, planned: int) -> None:
    """lr_find.csv, and lr_find.json with what follows from it."""
    table = TableLog(folder.root / LR_TABLE, COLUMNS, keep_through_step=-1)
    for row in rows:
        table.append(row)
    table.close()
    lowest: Any = min(rows, key=lambda row: row["smoothed"], default=None)
    found = suggestion(rows)
    write_json(
        folder.root / LR_FIND,
        {
            "suggested": found if found is None else float(f"{found:.2g}"),
            "lowest_loss_at": lowest and lowest["learning_rate"],
            "lowest_loss": lowest and lowest["smoothed"],
            "diverged_at": rows[-1]["learning_rate"] if rows and len(rows) < planned else None,
            "steps": len(rows),
            "first_loss": rows[0]["loss"] if rows and math.isfinite(rows[0]["loss"]) else None,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1])

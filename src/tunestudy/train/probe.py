"""How long a step takes on this machine: a few real steps of a stage, timed, nothing of them kept.

    torchrun … -m tunestudy.train.probe FOLDER        FOLDER holds job.json; probe.json is written into it

The stage starts from the study's own model, whatever stages come before it: shapes are the same, weights do not
matter for time, and nothing has to be trained first. Data are prepared as for the real run, into the same cache.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.stage import TrainStage
from tunestudy.data.batch import shares_of
from tunestudy.data.order import Schedule
from tunestudy.data.prepare import prepare
from tunestudy.records.atomic import remove_tree, write_json
from tunestudy.records.layout import PROBED, JobDir
from tunestudy.train.checkpoint import Kind
from tunestudy.train.curriculum import stand_in_places
from tunestudy.train.loop import take_step, tokens_of
from tunestudy.train.optim import set_learning_rates
from tunestudy.train.publish import peak_memory_mb
from tunestudy.train.question import opened_task
from tunestudy.train.run import Run, Task
from tunestudy.train.stage import lay_out, load_placed, make_learner, make_trainable
from tunestudy.train.start import start_run
from tunestudy.train.world import World

WARM_UP, TIMED = 2, 5
"""Steps: the first ones allocate memory and compile, and are not representative."""


def main(folder: str) -> None:
    """Measure on this rank; rank 0 writes."""
    job_dir = JobDir(Path(folder).resolve())
    began = time.perf_counter()
    with opened_task(job_dir, tells=False) as task:
        run = open_run(task)
        try:
            measured = measure(run, setup_s=time.perf_counter() - began)
        finally:
            run.close()
        if task.world.rank == 0:
            write_json(job_dir.root / PROBED, {**measured, "inside_s": round(time.perf_counter() - began, 3)})


def open_run(task: Task) -> Run:
    """As `train.stage.train_and_publish` does it."""
    loaded = load_placed(task)
    model = make_trainable(loaded, task)
    vision = loaded.vision
    data = prepare(task.job, task.folder, loaded.tokenizer, task.world, vision)
    material = lay_out(task, model, data, vision, stand_in_places(task, data.train))
    return start_run(task, material, make_learner(task, model, material.total_steps), loaded.identity)


def measure(run: Run, *, setup_s: float) -> dict[str, Any]:
    """Seconds of a step (median) and of an evaluation, and how many of each the whole stage has."""
    run.learner.engine.train(True)
    steps = min(WARM_UP + TIMED, run.material.total_steps)
    seconds = [timed_step(run) for _ in range(steps)]
    first = min(WARM_UP, steps - 1)
    kept, sizes = seconds[first:], StepSizes.of(run, range(first, steps))
    whole = StepSizes.of(run, some_of(run.material.total_steps))
    evaluation_s, evaluation = None, run.material.evaluation
    if evaluation is not None:
        began = time.perf_counter()
        evaluation.evaluate(run.learner.engine, run.learner.precision, run.world)
        evaluation_s = time.perf_counter() - began
    return {
        "setup_s": round(setup_s, 3),
        "step_s": round(statistics.median(kept) * whole.mean_tokens / sizes.mean_tokens, 6),
        "step_s_range": [round(value * whole.mean_tokens / sizes.mean_tokens, 6) for value in (min(kept), max(kept))],
        "timed_steps": len(kept),
        "total_steps": run.material.total_steps,
        "tokens_per_step": round(run.state.tokens / run.state.step, 1),
        "evaluation_s": evaluation_s,
        "evaluations": num_evaluations(run.settings, run.material.schedule, run.material.total_steps),
        **time_of_saving(run),
        "peak_memory_mb": peak_memory_mb(run.world),
        "largest_seen": StepSizes.of(run, range(steps)).largest,
        "largest": max(whole.largest, sizes.largest),
        "world_size": run.world.size,
        "device": device_name(run.world),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def timed_step(run: Run) -> float:
    """One optimiser step of the recipe in `loop.train`, without logs, evaluation and checkpoints."""
    run.world.wait_for_device()
    began = time.perf_counter()
    set_learning_rates(run.learner.optimizer, run.learner.learning_rate, run.state.step)
    if take_step(run) is None:
        sys.exit("the probe was asked to stop")
    run.world.wait_for_device()
    return time.perf_counter() - began


SAMPLED = 400
"""Steps of a stage whose lengths are looked at."""


def some_of(total_steps: int) -> range:
    """Steps spread over the whole stage."""
    return range(0, total_steps, -(-total_steps // SAMPLED))


@dataclass(frozen=True)
class StepSizes:
    """Of some steps: mean tokens without padding over all ranks, and tokens of the largest micro-batch with padding."""

    mean_tokens: float
    largest: int

    @classmethod
    def of(cls, run: Run, steps: range) -> "StepSizes":
        rows = [run.material.schedule.rows_of_step(step) for step in steps]
        lengths = run.material.corpus.lengths
        layout = run.material.loader.layout
        batches = [
            [sum(int(lengths[sample]) for sample in row) for row in batch]
            for of_step in rows
            for batch in shares_of(
                run.material.corpus,
                of_step,
                rank=0,
                world_size=run.world.size,
                micro_batch=run.material.batches.micro_batch,
            )
            if batch
        ]
        tokens = sum(tokens_of(run, of_step) for of_step in rows)
        sizes = [max(batch) * len(batch) if layout == "right" else sum(batch) for batch in batches]
        return cls(max(1.0, tokens / len(rows)), max(sizes))


def time_of_saving(run: Run) -> dict[str, Any]:
    """Seconds that training waits for a checkpoint (`save_s`), seconds until it is written, and its bytes.

    Of a full one where the stage writes any, else of a lite one; it is removed again.
    """
    kind: Kind = "full" if run.settings.writes_full else "lite"
    began = time.perf_counter()
    run.saver.save(kind, run.state, metrics={}, label="")
    waited = time.perf_counter() - began
    run.saver.finish()
    written = time.perf_counter() - began
    path = run.task.folder.checkpoint(run.state.step)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else 0
    if run.world.rank == 0:
        remove_tree(path)
    return {"save_s": round(waited, 4), "saved_s": round(written, 4), "saved_bytes": size, "saved_kind": kind}


def num_evaluations(settings: TrainStage, schedule: Schedule, total_steps: int) -> int:
    """As `loop.is_evaluated` decides, and the one before the first step."""
    steps = set(range(settings.eval_steps, total_steps + 1, settings.eval_steps)) if settings.eval_steps else set()
    if settings.eval_on_epoch_end:
        last = schedule.epoch_of_step(total_steps - 1)
        steps |= {schedule.first_step_of_epoch(epoch) for epoch in range(1, last + 1)} | {total_steps}
    return len(steps) + settings.eval_on_start


def device_name(world: World) -> str:
    return torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"


if __name__ == "__main__":
    main(sys.argv[1])

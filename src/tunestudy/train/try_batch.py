"""Whether a stage fits its card when a step is cut in one way, and how fast it is: a few real steps, none kept.

    torchrun … -m tunestudy.train.try_batch FOLDER     FOLDER holds job.json and request.json; leaves try.json there

Two steps warm up, and their losses and gradients say whether this way of cutting learns the same as others. One step
of the longest samples that the stage can draw says what it takes of memory, the optimiser's step included. Then steps
as they come are timed. The stage starts from the study's own model, as in a probe (`probe.py`).
"""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from tunestudy.data.batch import Row
from tunestudy.data.loader import AHEAD
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import REQUEST, TRIED, JobDir
from tunestudy.records.redact import redact
from tunestudy.records.untrained import MEBIBYTE, peak_of_process_mb
from tunestudy.train.loop import TakenStep, accumulate_gradients, move_weights, take_step, tokens_of
from tunestudy.train.optim import set_learning_rates
from tunestudy.train.probe import device_name, open_run
from tunestudy.train.question import opened_task
from tunestudy.train.run import Run
from tunestudy.train.world import World

WARM_UP, TIMED, MOST_TIMED = 2, 5, 20
"""Steps. More are timed where threads make images ahead: what they had ready must not hide how slow they are."""
LONG_BATCHES = 2
"""Micro-batches of the longest samples: from the second on, gradients lie beside the activations."""
DOES_NOT_FIT = 3
"""Exit code of a rank that ran out of memory."""
CONTEXT_BYTES = 500 * MEBIBYTE
"""What a process takes of a GPU before its first tensor, where others' use of the card hides it."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The memory that one rank may fill."""

    of_rank: int
    """Bytes for tensors; of a CPU rank, for its whole process."""
    of_card: int
    taken: int = 0
    """Bytes of the card that other programs hold."""


def main(folder: str) -> None:
    """Try on this rank; rank 0 writes, and any rank that runs out of memory."""
    job_dir = JobDir(Path(folder).resolve())
    wanted = read_json(job_dir.root / REQUEST)
    began = time.perf_counter()
    with opened_task(job_dir, tells=False) as task:
        limit = set_limit(task.world, wanted["memory_bytes"])
        known: dict[str, Any] = {}
        with telling_of_memory(job_dir, task.world, limit, known):
            run = open_run(task)
            try:
                known["longest_row"] = tokens_of(run, longest_rows(run)[:1])
                found = attempt(run, limit)
            finally:
                run.close()
        if task.world.rank == 0:
            facts = {"fits": True, **known, **facts_of(task.world, limit), **found}
            write_json(job_dir.root / TRIED, {**facts, "inside_s": round(time.perf_counter() - began, 3)})


def set_limit(world: World, wanted_bytes: int | None) -> Limit:
    """The card at hand, or a smaller one that is made of it; of a CPU rank, its share of the machine's memory."""
    if world.device.type != "cuda":
        total = psutil.virtual_memory().total
        return Limit(of_rank=wanted_bytes or total // world.local_size, of_card=wanted_bytes or total)
    torch.zeros(1, device=world.device)  # now its context is there
    free, total = torch.cuda.mem_get_info(world.device)
    context = min(total - free, CONTEXT_BYTES)
    of_rank = min(free, (wanted_bytes or total) - context)
    torch.cuda.set_per_process_memory_fraction(max(0.0, of_rank / total), world.device)
    return Limit(of_rank=of_rank, of_card=min(wanted_bytes or total, total), taken=total - free - context)


@contextmanager
def telling_of_memory(folder: JobDir, world: World, limit: Limit, known: Mapping[str, Any]) -> Iterator[None]:
    """Leave word when this rank runs out of memory, and end it: others are ended by torchrun.

    `known`: what else is known by then."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"rank {world.rank}: {error}", file=sys.stderr, flush=True)
        why = redact((str(error).splitlines() or ["out of memory"])[0])
        write_json(folder.root / TRIED, {"fits": False, "why": why, **known, **facts_of(world, limit)})
        sys.exit(DOES_NOT_FIT)


def is_out_of_memory(error: BaseException) -> bool:
    """By its class, or by what CUDA's libraries say when they cannot get their own buffers."""
    words = str(error).lower()
    told = "out of memory" in words or "alloc_failed" in words
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or told


def facts_of(world: World, limit: Limit) -> dict[str, Any]:
    return {
        "peak_bytes": peak_bytes(world),
        "limit_bytes": limit.of_rank,
        "card_bytes": limit.of_card,
        "taken_bytes": limit.taken,
        "device": device_name(world),
    }


def attempt(run: Run, limit: Limit) -> dict[str, Any]:
    """Warm up, take the longest step, time some. OutOfMemoryError when a CPU rank is above its limit."""
    draws = draws_numbers(run.learner.model)
    learnt = [loss_without_drawing(run)] if draws else []
    run.learner.engine.train(True)
    for _ in range(WARM_UP):
        taken = next_step(run, limit)
        learnt += [] if draws else [taken.loss, taken.grad_norm]
    longest = longest_step(run, limit)
    timed = timed_steps(run, limit)
    peaks = run.world.gather_objects(peak_bytes(run.world))
    return {
        **timed,
        **run.material.batches.as_json(),
        "peak_bytes": max(peaks),
        "longest_tokens": longest,
        "learnt": learnt,
        "draws": draws,
        "precision": str(run.learner.precision.dtype).removeprefix("torch."),
        "images": run.material.corpus.images is not None,
        "total_steps": run.material.total_steps,
    }


def draws_numbers(model: nn.Module) -> bool:
    """Whether there is dropout: its numbers are drawn anew for every micro-batch, so cutting changes them."""
    return any(
        (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or (getattr(module, "attention_dropout", 0.0) or 0.0) > 0
        for module in model.modules()
    )


@torch.no_grad()
def loss_without_drawing(run: Run) -> float | None:
    """Mean loss of the first step's rows without dropout; None without any target."""
    engine, num_sources = run.learner.engine, len(run.material.corpus.sources)
    engine.train(False)
    sums = torch.zeros(2, dtype=torch.float64, device=run.world.device)
    for share in run.material.loader.of_rows(run.material.schedule.rows_of_step(0)):
        with run.learner.precision.autocast():
            losses = engine.evaluated(share.batch().to(run.world.device), num_sources=num_sources)
        sums += torch.stack([losses.nll_by_source.sum().double(), losses.tokens_by_source.sum().double()]).to(sums)
    nll, targets = run.world.all_reduce_sum(sums).tolist()
    return nll / targets if targets else None


def next_step(run: Run, limit: Limit) -> TakenStep:
    """The next step of the stage."""
    last = run.material.total_steps - 1
    set_learning_rates(run.learner.optimizer, run.learner.learning_rate, min(run.state.step, last))
    taken = take_step(run)
    if taken is None:
        sys.exit("asked to stop")
    require_room(run.world, limit)
    return taken


def longest_step(run: Run, limit: Limit) -> int:
    """One optimiser step of the longest rows; tokens of this rank's longest micro-batch. Nothing of it is counted."""
    rows = longest_rows(run)
    shares = run.material.loader.of_rows(rows)
    targets, _ = run.world.sum_of(sum(share.num_targets for share in shares), 0)
    accumulate_gradients(run, shares, int(targets), tokens_of(run, rows))
    move_weights(run, int(targets))
    run.world.wait_for_device()
    require_room(run.world, limit)
    return tokens_of(run, rows[: run.material.batches.micro_batch])


def longest_rows(run: Run) -> list[Row]:
    """The longest rows of the stage, enough for a rank's first micro-batches; again from the first where they end."""
    batches, material = run.material.batches, run.material
    wanted = batches.micro_batch * batches.world_size * min(LONG_BATCHES, batches.accumulation)
    lengths = material.corpus.lengths
    if run.settings.packing:
        steps = range(material.schedule.steps_in_epoch(0))
        rows = [row for step in steps for row in material.schedule.rows_of_step(step)]
        rows.sort(key=lambda row: -int(lengths[list(row)].sum()))
    else:
        drawn = np.flatnonzero(material.schedule.times_drawn(material.total_steps))
        rows = [(int(sample),) for sample in drawn[np.argsort(-lengths[drawn], kind="stable")][:wanted]]
    return (rows * -(-wanted // len(rows)))[:wanted]


def timed_steps(run: Run, limit: Limit) -> dict[str, Any]:
    """Seconds of steps as they come, tokens and samples per second, and the share in which data were waited for."""
    loader, state = run.material.loader, run.state
    loader.close()  # what was made while the longest step ran would look like speed
    ahead = AHEAD * run.settings.dataloader_num_workers if run.material.corpus.images is not None else 0
    steps = max(TIMED, min(MOST_TIMED, -(-2 * ahead // run.material.batches.accumulation)))
    seconds, waits, tokens, samples = [], [], [], []
    for _ in range(1 + steps):
        before, waited = (state.tokens, state.samples), loader.waited_s
        run.world.wait_for_device()
        began = time.perf_counter()
        next_step(run, limit)
        run.world.wait_for_device()
        seconds.append(time.perf_counter() - began)
        waits.append(loader.waited_s - waited)
        tokens.append(state.tokens - before[0])
        samples.append(state.samples - before[1])
    seconds, waits, tokens, samples = seconds[1:], waits[1:], tokens[1:], samples[1:]
    rates = [count / value for count, value in zip(tokens, seconds, strict=True)]
    return {
        "step_s": round(statistics.median(seconds), 6),
        "seconds": [round(value, 6) for value in seconds],
        "tokens_per_s": round(statistics.median(rates), 3),
        "rates": [round(rate, 3) for rate in rates],
        "samples_per_s": round(statistics.median(rates) * sum(samples) / sum(tokens), 3),
        "wait_share": round(sum(waits) / sum(seconds), 5),
    }


def peak_bytes(world: World) -> int:
    """Most memory that this rank held: what torch reserves of the fullest of its GPUs, or its process."""
    if world.device.type != "cuda":
        return int(peak_of_process_mb() * MEBIBYTE)
    return max(torch.cuda.max_memory_reserved(place) for place in range(torch.cuda.device_count()))


def require_room(world: World, limit: Limit) -> None:
    """A GPU refuses by itself; a CPU rank is measured."""
    if world.device.type != "cuda" and (taken := peak_bytes(world)) > limit.of_rank:
        allowed = f"{limit.of_rank / 1e9:.2f} GB are allowed"
        raise torch.OutOfMemoryError(f"the process takes {taken / 1e9:.2f} GB, {allowed}")


if __name__ == "__main__":
    main(sys.argv[1])

"""What a 5 MB lite checkpoint costs: how long it blocks the loop, and what one every 50 steps adds to a run.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [--pairs 40]

The model is a Qwen3 with random weights and an adapter of about 5 MB in float32, trained by the real loop. "Blocked" is
the time that taking a checkpoint keeps the loop from its next step (copying, and waiting for the one before).

The cost is measured within one run, since whole runs differ from each other by more than a checkpoint costs: one is
taken every 100 steps, and the 50 steps that begin with it (and share the machine with the writer) are compared, by
seconds a token, with the 50 steps after them. Shown are the median of the pairs' ratios and its 95 % interval
(bootstrap); the limit is met when the interval lies below it, missed when it lies above, and otherwise this machine
cannot tell.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))

import numpy as np
import torch

BLOCKED_LIMIT_MS, COST_LIMIT = 5.0, 0.02
WINDOW = 50
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
ADAPTER = {"type": "lora", "lora_r": 64, "lora_alpha": 64, "target_modules": "all-linear"}
Clocks = list[tuple[float, float, int]]


def measured_run(root: Path, steps: int) -> tuple[Clocks, list[float], int]:
    """Train once: (wall s, process s, tokens) after every step, the ms of every block, bytes of a checkpoint."""
    from tinyjob import make_job, run, tiny_model

    from tunestudy.train import loop
    from tunestudy.train.run import Run
    from tunestudy.train.saving import Saver

    folder = make_job(
        root,
        model=tiny_model(**MODEL),
        adapter=ADAPTER,
        num_records=200,
        max_steps=steps,
        effective_batch_size=8,
        logging_steps=10,
        save_steps=2 * WINDOW,
        full_save_steps=None,
        save_on_epoch_end=False,
        eval_on_epoch_end=False,
    )
    clocks: Clocks = []
    blocked: list[float] = []
    size = 0
    count, save = loop.count, Saver.save

    def timed_count(under_way: Run, *arguments: Any) -> None:
        nonlocal size
        size = under_way.learner.num_trainable * 4
        count(under_way, *arguments)
        clocks.append((time.perf_counter(), time.process_time(), under_way.state.tokens))

    def timed_save(self: Saver, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        save(self, *arguments, **options)
        blocked.append((time.perf_counter() - began) * 1000)

    loop.count, Saver.save = timed_count, timed_save  # type: ignore[assignment, method-assign]
    try:
        assert run(folder)
    finally:
        loop.count, Saver.save = count, save  # type: ignore[method-assign]
    return clocks, blocked, size


def pair_ratios(times: list[float], tokens: list[int]) -> list[float]:
    """Seconds a token of the 50 steps from each checkpoint on ÷ those of the 50 steps after, minus 1."""

    def rate(first: int) -> float:
        last = first + WINDOW
        return (times[last] - times[first]) / (tokens[last] - tokens[first])

    starts = range(2 * WINDOW - 1, len(times) - 2 * WINDOW, 2 * WINDOW)
    return [rate(start) / rate(start + WINDOW) - 1 for start in starts]


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """95 % percentile bootstrap."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> int:
    """Print the table; exit status 1 when a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        clocks, blocked, size = measured_run(Path(root), steps=2 * WINDOW * (arguments.pairs + 1))
    print(f"lite checkpoint of {size / 1e6:.1f} MB, {len(blocked)} of them, loop of {len(clocks)} steps")
    print(f"loop blocked: median {statistics.median(blocked):.2f} ms, max {max(blocked):.2f} ms")
    intervals = []
    wall, process, tokens = (list(column) for column in zip(*clocks, strict=True))
    for name, times in (("wall", wall), ("process", process)):
        ratios = pair_ratios(times, tokens)
        low, high = interval_of_median(ratios)
        intervals.append((low, high))
        print(
            f"{name:<8} one every {WINDOW} steps adds {statistics.median(ratios):+.2%} [{low:+.2%}, {high:+.2%}] "
            f"(median of {len(ratios)} pairs)"
        )
    met = all(high <= COST_LIMIT for _, high in intervals) and statistics.median(blocked) <= BLOCKED_LIMIT_MS
    missed = any(low > COST_LIMIT for low, _ in intervals) or statistics.median(blocked) > BLOCKED_LIMIT_MS
    verdict = "met" if met else "MISSED" if missed else "not decided, the machine is too noisy"
    print(f"limits: {BLOCKED_LIMIT_MS} ms and {COST_LIMIT:.0%}: {verdict}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

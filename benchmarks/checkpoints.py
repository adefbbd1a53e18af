"""What a 5 MB lite checkpoint costs: how long it blocks the loop, and what checkpoints every 50 steps add to a run.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [--steps 400] [--pairs 3]

The model is a Qwen3 with random weights and an adapter of about 5 MB in float32, trained by the real loop. "Blocked" is
the time that taking a checkpoint keeps the loop from its next step (copying, and waiting for the one before). The cost
for a whole run is shown twice: as an account (time blocked plus the writer thread's processor time, as a share of the
run), and as the ratio of runs with and without checkpoints, taken in turns, by wall and by process time. The ratios are
only as good as the machine is quiet, so their spread is printed and the account decides.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))

import torch

BLOCKED_LIMIT_MS, COST_LIMIT = 5.0, 0.02
EVERY = 50
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


def measured_run(root: Path, name: str, steps: int, *, saves: bool) -> dict[str, Any]:
    """Train once; the loop's wall and process seconds, and the milliseconds of every block."""
    from tinyjob import make_job, run, tiny_model

    from tunestudy.train import stage
    from tunestudy.train.checkpoint import Snapshot
    from tunestudy.train.loop import train
    from tunestudy.train.run import Run
    from tunestudy.train.saving import Saver
    from tunestudy.train.writer import CheckpointWriter

    root = root / name
    root.mkdir()
    folder = make_job(
        root,
        model=tiny_model(**MODEL),
        adapter=ADAPTER,
        num_records=200,
        max_steps=steps,
        effective_batch_size=16,
        logging_steps=10,
        save_steps=EVERY if saves else None,
        full_save_steps=None,
        save_on_epoch_end=False,
        eval_on_epoch_end=False,
    )
    blocked: list[float] = []
    taken: dict[str, Any] = {"blocked_ms": blocked, "writer": 0.0}
    save, write = Saver.save, CheckpointWriter._write

    def timed_write(self: CheckpointWriter, snapshot: Snapshot) -> None:
        began = time.thread_time()
        write(self, snapshot)
        taken["writer"] += time.thread_time() - began

    def timed_save(self: Saver, *arguments: Any, **options: Any) -> None:
        began = time.perf_counter()
        save(self, *arguments, **options)
        blocked.append((time.perf_counter() - began) * 1000)

    def timed_train(under_way: Run) -> bool:
        taken["bytes"] = under_way.learner.num_trainable * 4
        wall, process = time.perf_counter(), time.process_time()
        finished = train(under_way)
        under_way.saver.finish()
        taken.update(wall=time.perf_counter() - wall, process=time.process_time() - process)
        return finished

    Saver.save, stage.train, CheckpointWriter._write = timed_save, timed_train, timed_write  # type: ignore[method-assign]
    try:
        assert run(folder)
    finally:
        Saver.save, stage.train, CheckpointWriter._write = save, train, write  # type: ignore[method-assign]
    return taken


def main() -> int:
    """Print the table; exit status 1 when a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=3, help="runs with and without, in turns")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as root:
        measured_run(Path(root), "warm-up", EVERY, saves=True)
        for pair in range(arguments.pairs):
            for saves in (False, True) if pair % 2 else (True, False):
                runs[saves].append(measured_run(Path(root), f"{pair}-{saves}", arguments.steps, saves=saves))
    blocked = [ms for taken in runs[True] for ms in taken["blocked_ms"]]
    size = runs[True][0]["bytes"] / 1e6
    print(f"lite checkpoint of {size:.1f} MB, every {EVERY} of {arguments.steps} steps, {len(blocked)} checkpoints")
    print(f"loop blocked: median {statistics.median(blocked):.2f} ms, max {max(blocked):.2f} ms")
    shares = [(sum(t["blocked_ms"]) / 1000 + t["writer"]) / t["process"] for t in runs[True]]
    print(f"account: blocked + writer = {statistics.median(shares):.2%} of the run's process time")
    for clock in ("wall", "process"):
        ratios = [a[clock] / b[clock] - 1 for a, b in zip(runs[True], runs[False], strict=True)]
        shown = ", ".join(f"{ratio:+.1%}" for ratio in sorted(ratios))
        times = [statistics.median(taken[clock] for taken in runs[saves]) for saves in (False, True)]
        print(f"{clock:<8} without {times[0]:6.2f} s, with {times[1]:6.2f} s (medians); pairs: {shown}")
    met = statistics.median(blocked) <= BLOCKED_LIMIT_MS and statistics.median(shares) <= COST_LIMIT
    print(f"limits: {BLOCKED_LIMIT_MS} ms and {COST_LIMIT:.0%}: {'met' if met else 'MISSED'}")
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

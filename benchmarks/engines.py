"""Every engine against one rank alone: how far losses and weights are from each other, and after changes of ranks.

    python benchmarks/engines.py [--ranks 2 3]

A job of tests/lab (Qwen3, fp32, gloo on this machine) is trained by one rank and by several under each engine: as it
is, with accumulation, with activation checkpointing, compiled; in full and with an adapter. Then one job is stopped and
goes on with 1 → N → 1 ranks. Errors are relative: of losses the largest over all steps and evaluations, of weights the
norm of a tensor's difference over its norm, the largest over all tensors. Exit code 1: one is above its limit. Nothing
is written but stdout.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))

from safetensors.torch import load_file
from tinyjob import ADAPTER, make_job, rows_of
from tinyranks import start_afresh, wait_for_step

from tunestudy.launch.torchrun import ask_to_stop
from tunestudy.records.layout import JobDir

LOSS_LIMIT, WEIGHT_LIMIT = 1e-5, 3e-5
RESUMED_LIMIT = 1e-4
"""Sums are formed in another order on another number of ranks, and Adam's first steps amplify it."""
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp"},
    "fsdp2": {"engine": "fsdp2"},
    "fsdp2, gradients": {"engine": "fsdp2", "fsdp2": {"shard": "gradients"}},
    **{
        f"deepspeed, stage {stage}": {"engine": "deepspeed", "deepspeed": {"zero_optimization": {"stage": stage}}}
        for stage in (1, 2, 3)
    },
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"per_device_train_batch_size": 1},
    "checkpointing": {"activation_checkpointing": True, "adapter": ADAPTER},
    "compiled": {"torch_compile": True, "adapter": ADAPTER},
}


def loss_error(one: JobDir, other: JobDir) -> float:
    """The largest relative difference of any loss."""
    worst = 0.0
    for log in ("loss_log", "eval_log"):
        for row, also in zip(rows_of(getattr(one, log)), rows_of(getattr(other, log)), strict=True):
            for key in row:
                if key.endswith("_loss") and row[key]:
                    worst = max(worst, abs(float(also[key]) / float(row[key]) - 1))
    return worst


def weight_error(one: JobDir, other: JobDir) -> float:
    """The largest relative distance of any tensor."""
    worst = 0.0
    for file in sorted(one.model.rglob("*.safetensors")):
        ours, theirs = load_file(file), load_file(other.model / file.relative_to(one.model))
        assert ours.keys() == theirs.keys()
        worst = max(worst, *(float((theirs[k] - v).norm() / v.norm().clamp_min(1e-3)) for k, v in ours.items()))
    return worst


def finished(folder: JobDir, ranks: int) -> JobDir:
    code = start_afresh(folder, ranks=ranks).wait(timeout=900)
    assert code == 0, json.loads(folder.failure_json.read_text())
    return folder


def resumed(folder: JobDir, ranks: int) -> JobDir:
    """Stopped twice on the way, with 1, then `ranks`, then 1 rank."""
    for count, steps in ((1, 5), (ranks, 20)):
        process = start_afresh(folder, ranks=count)
        wait_for_step(folder, process, steps)
        ask_to_stop(process.pid)
        process.wait(timeout=300)
    return finished(folder, 1)


def row(words: str, ranks: str, way: str, one: JobDir, other: JobDir, limit: float) -> bool:
    """Print one line; whether it is within the limit."""
    losses, weights = loss_error(one, other), weight_error(one, other)
    held = losses <= limit and weights <= max(WEIGHT_LIMIT, 10 * limit * (limit > LOSS_LIMIT))
    print(f"{words:22}{ranks:>10}  {way:16}{losses:>10.1e}{weights:>10.1e}{'' if held else '  MISSED'}", flush=True)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    ranks = parser.parse_args().ranks
    held = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(f"{'engine':22}{'ranks':>10}  {'way':16}{'loss':>10}{'weights':>10}")
        for way, settings in WAYS.items():
            settings = {"max_steps": 6, "effective_batch_size": 6, **settings}
            one = finished(make_job(root, f"one {way}", **settings), 1)
            for words, engine in ENGINES.items():
                for count in ranks:
                    other = finished(make_job(root, f"{words} {way} {count}", **settings, **engine), count)
                    held.append(row(words, str(count), way, one, other, LOSS_LIMIT))
        settings = {"max_steps": 60, "full_save_steps": 5, "effective_batch_size": 6, "adapter": ADAPTER}
        one = finished(make_job(root, "one resumed", **settings), 1)
        for words, engine in ENGINES.items():
            other = resumed(make_job(root, f"{words} resumed", **settings, **engine), ranks[0])
            held.append(row(words, f"1→{ranks[0]}→1", "resumed", one, other, RESUMED_LIMIT))
    limits = f"loss {LOSS_LIMIT:g}, weights {WEIGHT_LIMIT:g}; resumed {RESUMED_LIMIT:g}, {10 * RESUMED_LIMIT:g}"
    print(f"limits: {limits}: {'met' if all(held) else 'MISSED'}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())

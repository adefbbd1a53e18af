"""What slicing a model over ranks costs and saves: memory while loading, bytes and seconds of a checkpoint.

    python benchmarks/distributed.py [--ranks 2] [--width 768] [--layers 12]

Each way runs in processes of its own, `ranks` of them with gloo on this machine, on a Qwen3 model of random bf16
weights and 32,000 words in a safetensors file. Memory is the peak of a rank's anonymous pages (what no file backs and
the system cannot drop) above what the imports took. Exit code 1: a figure is beyond its limit. Nothing is written
but stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

RANK, VOCABULARY = 16, 32_000
MOST_MEMORY, FEWEST_TIMES = 0.6, 180
SEED_004 = {"frozen": 216e9, "adapter": 126.6e6}
"""Bytes: 108 billion weights in bf16; r = 16 on q, k, v, o of 46 layers in fp32."""
REPEATS = 5


def make_model(folder: Path, width: int, layers: int) -> float:
    """Its bytes."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    heads = width // 64
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 3),
        head_dim=64,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return 2.0 * sum(parameter.numel() for parameter in model.parameters())


def child(way: str, folder: Path) -> None:
    """One rank. `copied`: the model in memory of its own on every rank; `sliced`: as a job with fsdp2 loads it."""
    import peft  # noqa: F401 - its import is not what is measured
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    from transformers import AutoModelForCausalLM

    from tunestudy.adapters.attach import attach
    from tunestudy.config.adapter import LoraAdapter
    from tunestudy.config.stage import Fsdp2Settings
    from tunestudy.train.checkpoint import weights_of
    from tunestudy.train.engines.fsdp2 import Fsdp2Engine
    from tunestudy.train.loss import LossModel
    from tunestudy.train.shards import WholeCopy, whole_on_rank_0
    from tunestudy.train.trainable import Trainable
    from tunestudy.train.world import open_world

    torch.set_num_threads(1)
    told: dict[str, float] = {}
    with open_world() as world:
        with watching() as peak:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
            if way == "copied":
                for tensor in [*model.parameters(), *model.buffers()]:
                    tensor.data = tensor.data.clone()
            else:
                model = attach(model, LoraAdapter(lora_r=RANK), seed=1)
                engine = Fsdp2Engine(LossModel(model), world, Fsdp2Settings())
        told["memory"] = peak[0]
        if way == "sliced":
            learns = [
                Trainable(name=name, parameter=parameter, role="r", learning_rate=1.0, decays=True)
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            ]
            lite = WholeCopy(weights_of(learns), engine.gather_group)
            told["lite_bytes"] = float(sum(one.parameter.numel() * 4 for one in learns))
            told["lite_s"] = least(lambda: lite.take(weights_of(learns)))
            everything = dict(model.named_parameters())
            told["full_bytes"] = float(sum(one.numel() * one.element_size() for one in everything.values()))
            told["full_s"] = least(lambda: whole_on_rank_0(everything, engine.gather_group), repeats=2)
        gathered = world.gather_objects(told["memory"])
        if world.rank == 0:
            print(json.dumps({**told, "memory": max(gathered)}))


def least(action: Any, repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several."""
    found = []
    for _ in range(repeats):
        dist.barrier()
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return min(found)


@contextmanager
def watching() -> Iterator[list[float]]:
    """The peak of anonymous memory in MB, above what there was."""
    start, peak, ended = anonymous_mb(), [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.003):
            peak[0] = max(peak[0], anonymous_mb() - start)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak[0] = max(peak[0], anonymous_mb() - start)


def anonymous_mb() -> float:
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(text.split("Anonymous:")[1].split()[0]) * 1024 / 1e6


def run(way: str, folder: Path, ranks: int) -> dict[str, float]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*torchrun, __file__, "--child", way, "--folder", str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        size = make_model(folder, chosen.width, chosen.layers)
        copied, sliced = (run(way, folder, chosen.ranks) for way in ("copied", "sliced"))
    print(f"{chosen.ranks} ranks, width {chosen.width}, {chosen.layers} layers, {size / 1e6:.0f} MB of frozen bf16")
    memory = sliced["memory"] / copied["memory"]
    print(
        f"peak memory of a rank while loading: whole copy {copied['memory']:.0f} MB, sliced {sliced['memory']:.0f} MB"
    )
    print(f"  {memory:.2f} of a copy on every rank (limit {MOST_MEMORY})")
    print(f"lite checkpoint, gathered: {sliced['lite_bytes'] / 1e6:8.1f} MB in {sliced['lite_s']:.3f} s")
    print(f"everything, gathered:      {sliced['full_bytes'] / 1e6:8.1f} MB in {sliced['full_s']:.3f} s")
    times = (SEED_004["frozen"] + SEED_004["adapter"]) / SEED_004["adapter"]
    print(
        f"fewer bytes: {sliced['full_bytes'] / sliced['lite_bytes']:.0f} times here, {times:.0f} times for seed 004's"
    )
    sys.exit(0 if memory <= MOST_MEMORY and times >= FEWEST_TIMES else 1)


if __name__ == "__main__":
    main()

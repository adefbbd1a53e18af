"""Evaluation and checkpoints of two hosts whose line gives 200 Mbit/s at 5 ms, against stock tools on the same line.

    python benchmarks/slow_network.py [--rate-mbit 200] [--delay-ms 5]      as root; needs sshd and ip

Hosts are network namespaces of tests/lab with one rank each; the model is a Qwen3 of random weights with 32,000 words.
Every way runs in processes of its own, one after another on the same line:

evaluation  Trainer.evaluate with a metric, which gathers logits; ours; the same forward passes, ranks silent
checkpoint  of an adapter of 100 MB under fsdp2: ours, everything, and PEFT's save_pretrained, loaded again

Exit code 1: a figure is beyond its limit. Nothing is written but stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "lab")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from distributed import SEED_004, VOCABULARY, make_model  # noqa: E402

SAMPLES, LENGTH, BATCH = 48, 128, 2
SMALL, LARGE = (256, 4), (768, 12)
"""Width and layers for the evaluation and for the checkpoint."""
ADAPTER_RANK = 160
FASTER, OF_SILENT, LOST, INTERVAL = 18, 0.9, 0.02, 100


def samples() -> list[list[int]]:
    return np.random.default_rng(0).integers(1, VOCABULARY, (SAMPLES, LENGTH)).tolist()


def theirs(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(folder.parent / "trainer"),
        use_cpu=True,
        ddp_backend="gloo",
        per_device_eval_batch_size=BATCH,
        report_to=[],
        disable_tqdm=True,
    )
    rows = [{"input_ids": ids, "labels": ids} for ids in samples()]
    trainer = Trainer(model=model, args=arguments, eval_dataset=rows, compute_metrics=lambda _: {})
    began = time.perf_counter()
    found = trainer.evaluate()
    return {"seconds": time.perf_counter() - began, "loss": found["eval_loss"]}


def ours(folder: Path) -> dict[str, Any]:
    from dataclasses import replace

    from made_corpus import corpus_of
    from transformers import AutoModelForCausalLM

    from tunestudy.config.model import ModelConfig
    from tunestudy.config.stage import TrainStage
    from tunestudy.train.engines.single import SingleEngine
    from tunestudy.train.evaluate import EvaluationSet
    from tunestudy.train.loss import LossModel
    from tunestudy.train.precision import Precision
    from tunestudy.train.world import World, open_world

    rows = [(np.array(ids), np.arange(LENGTH) > 0) for ids in samples()]
    settings = TrainStage.model_validate({"data": ["d"], "learning_rate": 1.0, "per_device_eval_batch_size": BATCH})
    with open_world() as world:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        engine = SingleEngine(LossModel(model))
        precision = Precision(settings, ModelConfig(model_name_or_path="m"), world.device)
        evaluation = EvaluationSet(corpus_of(rows), settings, world, micro_batch=BATCH, layout="right")
        told: dict[str, Any] = {}
        alone = replace(World(), rank=world.rank)
        evaluation.evaluate(engine, precision, alone)
        for name, among in (("silent", alone), ("seconds", world)):
            took = []
            for _ in range(5):
                world.barrier()
                began = time.perf_counter()
                sums = evaluation.evaluate(engine, precision, among).sums
                took.append(time.perf_counter() - began)
            told[name] = min(map(max, zip(*world.gather_objects(took), strict=True)))  # of the slower rank
        return {**told, "loss": sums.loss}


def checkpoint(folder: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    from tunestudy.adapters.attach import attach
    from tunestudy.config.adapter import LoraAdapter
    from tunestudy.config.stage import Fsdp2Settings
    from tunestudy.data.batch import Batch
    from tunestudy.train.checkpoint import weights_of
    from tunestudy.train.engines.fsdp2 import Fsdp2Engine
    from tunestudy.train.loss import LossModel
    from tunestudy.train.shards import WholeCopy
    from tunestudy.train.trainable import Trainable
    from tunestudy.train.world import open_world

    with open_world() as world:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        model = attach(model, LoraAdapter(lora_r=ADAPTER_RANK), seed=1)
        engine = Fsdp2Engine(LossModel(model), world, Fsdp2Settings())
        learns = [
            Trainable(name=name, parameter=parameter, role="r", learning_rate=1.0, decays=True)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        ids = torch.tensor([samples()[0][:32]])
        batch = Batch(input_ids=ids, position_ids=torch.arange(32)[None], targets=ids, num_tokens=32, num_targets=32)
        told: dict[str, Any] = {"bytes": sum(one.parameter.numel() * 4 for one in learns)}
        for _ in range(2):  # the first allocates
            dist.barrier()
            began = time.perf_counter()
            with engine.accumulating(last=True), torch.autocast("cpu", torch.bfloat16):
                losses = engine.losses(batch, label_smoothing=0.0, num_sources=1)
                engine.backward(losses.nll_sum, denominator=64, scale=1.0)
            told["step"] = time.perf_counter() - began
        lite = WholeCopy(weights_of(learns), engine.gather_group)
        for _ in range(2):
            dist.barrier()
            began = time.perf_counter()
            lite.take(weights_of(learns))
            told["lite"] = time.perf_counter() - began
        told["everything"] = sum(p.numel() * p.element_size() for p in model.parameters())
        told["stock"] = stock_peft(model, folder)
        return told


def stock_peft(model: Any, base: Path) -> str:
    """What becomes of PEFT's own `save_pretrained` under `fully_shard`, and of what it wrote."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    saved = base.parent / f"stock-{dist.get_rank()}"
    try:
        model.save_pretrained(saved)
    except Exception as error:  # noqa: BLE001 - whatever it is, is the result
        return f"raises {type(error).__name__}: {str(error).splitlines()[0][:110]}"
    written = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), saved)
    kept = sum(bool((p != 0).any()) for n, p in again.named_parameters() if ".lora_A." in n)
    return f"wrote {written / 1e6:.1f} MB, {kept} tensors of A come back"


WAYS = {"theirs": theirs, "ours": ours, "checkpoint": checkpoint}


def child(way: str, folder: Path) -> None:
    torch.set_num_threads(1)
    told = WAYS[way](folder)
    if os.environ["RANK"] == "0":
        print("TOLD " + json.dumps(told), flush=True)


def run(lab: Any, way: str, folder: Path, port: int) -> dict[str, Any]:
    ranks = []
    for rank in (0, 1):
        words = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        settings = [f"{key}={value}" for key, value in words.items()]
        settings += ["MASTER_ADDR=h1", "GLOO_SOCKET_IFNAME=wan0", "OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1"]
        argv = ["env", *settings, sys.executable, __file__, "--child", way, "--folder", str(folder)]
        ranks.append(subprocess.Popen(lab.command(rank + 1, argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    first, second = (process.communicate() for process in ranks)
    told = [line for line in first[0].decode().splitlines() if line.startswith("TOLD ")]
    if not told:
        raise SystemExit(f"{way} failed:\n{first[1].decode()[-3000:]}\n{second[1].decode()[-3000:]}")
    found: dict[str, Any] = json.loads(told[0].removeprefix("TOLD "))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate-mbit", type=float, default=200)
    parser.add_argument("--delay-ms", type=float, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.folder)
        return
    from hosts import lab_hosts

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sizes = {name: make_model(root / name, *shape) for name, shape in (("small", SMALL), ("large", LARGE))}
        with lab_hosts(root / "net", 2) as lab:
            lab.slow_down(rate_mbit=chosen.rate_mbit, delay_ms=chosen.delay_ms)
            ways = (("theirs", "small"), ("ours", "small"), ("checkpoint", "large"))
            told = {way: run(lab, way, root / model, 29800 + n) for n, (way, model) in enumerate(ways)}
    sys.exit(0 if report(told, sizes, chosen.rate_mbit, chosen.delay_ms) else 1)


def report(told: dict[str, dict[str, Any]], sizes: dict[str, float], rate: float, delay: float) -> bool:
    """Print the figures; whether all are within their limits."""
    trainer, tunestudy, saved = told["theirs"], told["ours"], told["checkpoint"]
    faster, share = trainer["seconds"] / tunestudy["seconds"], tunestudy["silent"] / tunestudy["seconds"]
    print(f"2 hosts x 1 rank, gloo, {rate:g} Mbit/s, {delay:g} ms, fp32, {VOCABULARY} words")
    print(f"evaluation: {SAMPLES} samples of {LENGTH} tokens, {BATCH} a batch, {sizes['small'] / 2e6:.1f} M parameters")
    print(f"  Trainer.evaluate, logits gathered   {trainer['seconds']:8.2f} s   loss {trainer['loss']:.5f}")
    print(f"  tunestudy, one all-reduce           {tunestudy['seconds']:8.2f} s   loss {tunestudy['loss']:.5f}")
    print(f"  the same forward passes, silent     {tunestudy['silent']:8.2f} s")
    print(f"  {faster:.0f} times as fast (limit {FASTER}), {share:.3f} of the silent speed (limit {OF_SILENT})")
    lost = saved["lite"] / (INTERVAL * saved["step"])
    times = (SEED_004["frozen"] + SEED_004["adapter"]) / SEED_004["adapter"]
    here = saved["everything"] / saved["bytes"]
    print(f"checkpoint: adapter of {saved['bytes'] / 1e6:.0f} MB on {sizes['large'] / 2e6:.0f} M parameters, fsdp2")
    print(f"  gathered to one rank in {saved['lite']:.2f} s; a step takes {saved['step']:.2f} s, its blocks gathered")
    print(f"  the loop loses {lost:.2%} of {INTERVAL} steps (limit {LOST:.0%})")
    print(f"  {here:.1f} times fewer bytes than everything; {times:.0f} times for seed 004 (limit 180)")
    print(f"  stock PEFT's save_pretrained: {saved['stock']}")
    return faster >= FASTER and share >= OF_SILENT and lost < LOST and times >= 180


if __name__ == "__main__":
    main()

"""Does cutting a step up change its gradient? Accumulation 1/2/4/8 × 1/2 ranks × packed/padded against one reference.

    OMP_NUM_THREADS=1 python benchmarks/gradient_equality.py [--json FILE]

The reference takes every sample alone through the stock model with full logits, in fp32: Σ token NLL ÷ target tokens.
"error" is the largest difference of any gradient entry, relative to the largest entry of the reference. The column
"mean of means" shows what averaging the micro-batches' own mean losses would give.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lab"))

import numpy as np
import torch
import torch.multiprocessing as mp
from cut import micro_batches
from made_corpus import corpus_of
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.data.batch import Batch, Layout, Row
from tunestudy.data.corpus import Corpus
from tunestudy.models.attention import switch_to_segment_attention
from tunestudy.train.engines import Engine, open_engine
from tunestudy.train.loss import LossModel
from tunestudy.train.world import World, open_world

VOCABULARY = 128
NUM_SAMPLES = 32
PAIRS = tuple((i, NUM_SAMPLES - 1 - i) for i in range(NUM_SAMPLES // 2))
SINGLES = tuple((i,) for i in range(NUM_SAMPLES))
LAYOUTS: dict[str, tuple[Sequence[Row], Layout]] = {
    "padded": (SINGLES, "right"),
    "unpadded": (SINGLES, "free"),
    "packed": (PAIRS, "free"),
    "packed, padded": (PAIRS, "right"),
}
LIMIT = 1e-5


def make_corpus() -> Corpus:
    """Ragged samples whose share of targets varies a lot, so that a mean of means is visibly wrong."""
    random = np.random.default_rng(0)
    lengths = random.lognormal(3.0, 0.8, NUM_SAMPLES).astype(int).clip(3, 120)
    starts = [int(length * random.choice([0.0, 0.5, 0.9])) for length in lengths]
    return corpus_of(
        (random.integers(1, VOCABULARY, length), np.arange(length) >= start)
        for length, start in zip(lengths, starts, strict=True)
    )


def make_model() -> Any:
    """Qwen3 with random weights and an adapter whose B is not zero; the embedding and head train too."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = attach(AutoModelForCausalLM.from_config(config), LoraAdapter(lora_r=8), ("lm_head",), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def gradient_of(model: Any) -> Tensor:
    """All gradients as one vector (P,) in fp64."""
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def reference(corpus: Corpus) -> Tensor:
    """The gradient, one sample at a time, through stock code alone."""
    model = make_model()
    for sample in range(len(corpus)):
        tokens = slice(corpus.offsets[sample], corpus.offsets[sample + 1])
        ids_T = torch.from_numpy(corpus.ids[tokens].astype(np.int64))
        wanted_T = torch.from_numpy(corpus.is_target[tokens][1:].copy())
        logits_TV = model(input_ids=ids_T[None]).logits[0, :-1]
        nll = cross_entropy(logits_TV[wanted_T], ids_T[1:][wanted_T], reduction="sum")
        (nll / corpus.num_targets).backward()
    return gradient_of(model)


def ours(engine: Engine, batches: list[Batch], world: World) -> None:
    """The gradient as the loop makes it."""
    targets = int(world.sum_of(sum(batch.num_targets for batch in batches))[0])
    for index, batch in enumerate(batches):
        with engine.accumulating(last=index == len(batches) - 1):
            losses = engine.losses(batch, label_smoothing=0.0, num_sources=1)
            engine.backward(losses.nll_sum, denominator=targets, scale=1.0)


def mean_of_means(engine: Engine, batches: list[Batch], world: World) -> None:
    """What most trainers did for years: every micro-batch's mean counts the same."""
    for index, batch in enumerate(batches):
        with engine.accumulating(last=index == len(batches) - 1):
            losses = engine.losses(batch, label_smoothing=0.0, num_sources=1)
            weight = max(1, batch.num_targets) * len(batches) * world.size
            engine.backward(losses.nll_sum, denominator=weight, scale=1.0)


def measure(world: World) -> Iterator[dict[str, Any]]:
    """Every case that this world can run."""
    corpus = make_corpus()
    expected = reference(corpus)
    model = make_model()
    assert switch_to_segment_attention(model) is None
    engine = open_engine(LossModel(model), world)
    for layout, (rows, how) in LAYOUTS.items():
        for accumulation in (1, 2, 4, 8):
            if len(rows) < accumulation * world.size:
                continue
            micro = len(rows) // (accumulation * world.size)
            batches = micro_batches(corpus, rows, rank=world.rank, world_size=world.size, micro_batch=micro, layout=how)
            case: dict[str, Any] = {"ranks": world.size, "accumulation": len(batches), "layout": layout}
            for name, method in {"error": ours, "mean_of_means": mean_of_means}.items():
                model.zero_grad(set_to_none=True)
                method(engine, batches, world)
                case[name] = float((gradient_of(model) - expected).abs().max() / expected.abs().max())
            yield case


def _rank(rank: int, size: int, port: int, out: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with open_world() as world:
        cases = list(measure(world))
        if rank == 0:
            Path(out).write_text(json.dumps(cases), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Print the table; exit status 1 if any gradient is off by more than LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cases.json"
        # Forked before anything has run here: the imports are done, and no thread of autograd's is there yet.
        mp.start_processes(_rank, args=(2, _free_port(), str(out)), nprocs=2, start_method="fork")
        of_two = json.loads(out.read_text(encoding="utf-8"))
    cases = [*measure(World()), *of_two]
    print(f"{'ranks':>5} {'micro-batches':>14} {'layout':<15} {'error':>10} {'mean of means':>14}")
    for case in cases:
        print(
            f"{case['ranks']:>5} {case['accumulation']:>14} {case['layout']:<15} "
            f"{case['error']:>10.1e} {case['mean_of_means']:>13.1%}"
        )
    worst = max(case["error"] for case in cases)
    print(f"largest error {worst:.1e} (limit {LIMIT:.0e}) over {len(cases)} ways to cut a step")
    if arguments.json:
        arguments.json.write_text(json.dumps(cases), encoding="utf-8")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

"""Cost of the adapters against PEFT's LoRA, all sides in one run.

    python benchmarks/adapters.py [--quick] [--repeats 9] [--memory-only]

One linear layer (d × d, fp32, r = 16, frozen base), forward and backward with a gradient for x, on one thread: the
sides take turns, every repeat changes every parameter as an optimiser step does (so that norms are computed anew),
then runs 1 or 4 micro-batches; the least process time of all repeats counts. Then the same for a whole step of a
4-layer Qwen3 model with AdamW, and the peak of memory of training it, each side in a process of its own.
Exit code 1: a figure is beyond its limit. Nothing is written but stdout.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

RANK = 16
LINEAR_SIZES, TOKENS, MICRO_BATCHES = (1024, 2048, 4096), (256, 1024), (1, 4)
LIMITS = {
    ("our dora", 1024): 1.05,
    ("our dora", 256): 1.10,
    ("our sora", 1024): 1.03,
    ("our sora", 256): 1.03,
    ("our sdora", 1024): 1.12,
    ("our sdora", 256): 1.12,
}
MEMORY_LIMIT = 1.05
WIDTH, LAYERS, VOCABULARY, MODEL_TOKENS = 512, 4, 4000, 1024

missed: list[str] = []


def sides() -> list[str]:
    ours = ["our dora", *(f"our {kind}" for kind in ("sora", "sdora") if has_kind(kind))]
    return ["peft lora", "peft dora", *ours]


def has_kind(kind: str) -> bool:
    return importlib.util.find_spec(f"tunestudy.adapters.{kind}") is not None


def adapted(model: nn.Module, side: str, targets: Any) -> Any:
    """`model` with the side's adapter, B and gates moved off their start so that nothing is zero."""
    from peft import LoraConfig, get_peft_model

    from tunestudy.adapters.attach import kind_of
    from tunestudy.config.adapter import DoraAdapter, SdoraAdapter, SoraAdapter

    torch.manual_seed(0)
    kinds: dict[str, Any] = {
        "our dora": DoraAdapter(lora_r=RANK),
        "our sora": SoraAdapter(lora_r=RANK, target_sparsity=0.5),
        "our sdora": SdoraAdapter(lora_r=RANK, target_sparsity=0.5),
    }
    if side in kinds:
        kind = kind_of(kinds[side])
        config = kind.peft_config(kinds[side], target_modules=targets, modules_to_save=None)
        config.task_type = None
        wrapped = get_peft_model(model, config)
        kind.initialise(wrapped, "default", 0)
    else:
        config = LoraConfig(r=RANK, lora_alpha=32, target_modules=targets, use_dora=side == "peft dora")
        wrapped = get_peft_model(model, config)
    bump(learning(wrapped))
    return wrapped


def learning(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def bump(parameters: list[nn.Parameter]) -> None:
    """Change every parameter a little, as a step does."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=1e-3)


def best_times(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Least process time of each side's step, in seconds; the sides take turns, after one warm-up."""
    times: dict[str, list[float]] = {side: [] for side in steps}
    for repeat in range(repeats + 1):
        for side, step in steps.items():
            start = time.process_time()
            step()
            if repeat:
                times[side].append(time.process_time() - start)
    return {side: min(seconds) for side, seconds in times.items()}


def linear_step(side: str, d: int, tokens: int, micro_batches: int) -> Callable[[], None]:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(d, d, bias=False))
    model = adapted(network, side, ["0"])
    x, dy = torch.randn(tokens, d, requires_grad=True), torch.randn(tokens, d)
    parameters = learning(model)

    def step() -> None:
        bump(parameters)
        for tensor in (x, *parameters):
            tensor.grad = None
        for _ in range(micro_batches):
            model(x).backward(dy)

    return step


def linear_table(repeats: int, quick: bool) -> None:
    print(f"one linear layer d × d, fp32, r = {RANK}: time of a step ÷ PEFT LoRA's (limit)")
    print(f"{'d':>6}{'tokens':>8}{'micro':>7}{'LoRA ms':>9}" + "".join(f"{side:>16}" for side in sides()[1:]))
    for d in LINEAR_SIZES[: 1 if quick else None]:
        for tokens in TOKENS:
            for micro_batches in MICRO_BATCHES:
                steps = {side: linear_step(side, d, tokens, micro_batches) for side in sides()}
                times = best_times(steps, repeats)
                cells = [ratio_cell(side, tokens, times, f"d {d}") for side in sides()[1:]]
                print(f"{d:6}{tokens:8}{micro_batches:7}{times['peft lora'] * 1e3:9.1f}" + "".join(cells), flush=True)


def ratio_cell(side: str, tokens: int, times: dict[str, float], where: str) -> str:
    ratio, limit = times[side] / times["peft lora"], LIMITS.get((side, tokens))
    if limit is None:
        return f"{ratio:16.2f}"
    if round(ratio, 3) > limit:
        missed.append(f"{side}, {where}, {tokens} tokens: {ratio:.3f} > {limit}")
    return f"{ratio:9.3f} ({limit:.2f})"


def small_model() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    heads = WIDTH // 64
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            head_dim=64,
        )
    )


def model_step(side: str, tokens: int, *, recompute: bool = False) -> Callable[[], None]:
    """One optimiser step of one row."""
    from tunestudy.models.decoder import base_model_of
    from tunestudy.train.stage import checkpoint_activations

    model = adapted(small_model(), side, "all-linear").train()
    if recompute:
        checkpoint_activations(base_model_of(model))
    optimizer = torch.optim.AdamW(learning(model), lr=1e-4)
    ids = torch.randint(4, VOCABULARY, (1, tokens))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()

    return step


def model_table(repeats: int) -> None:
    print(f"\nwhole step of a model, {LAYERS} layers, width {WIDTH}, one row: time ÷ PEFT LoRA's (limit)")
    print(f"{'tokens':>14}{'LoRA ms':>16}" + "".join(f"{side:>16}" for side in sides()[1:]))
    for tokens in TOKENS:
        times = best_times({side: model_step(side, tokens) for side in sides()}, repeats)
        cells = [ratio_cell(side, tokens, times, "model") for side in sides()[1:]]
        print(f"{tokens:14}{times['peft lora'] * 1e3:16.1f}" + "".join(cells), flush=True)


def memory_table() -> None:
    print("\npeak memory of training that model over what it takes before the first step, MB (÷ PEFT LoRA's, limit)")
    for recompute in (False, True):
        used = {side: child_memory(side, recompute) for side in sides()}
        lora = used["peft lora"]
        cells = []
        for side, (start, peak) in used.items():
            ratio = peak / lora[1]
            cells.append(f"{side} {peak:.0f} ({ratio:.3f}; activations {(peak - start) / (lora[1] - lora[0]):.2f})")
            if side.startswith("our") and ratio > MEMORY_LIMIT:
                missed.append(f"memory of {side}{' with recomputation' * recompute}: {ratio:.3f} > {MEMORY_LIMIT}")
        print(f"{'recomputed' if recompute else 'kept':>12}: " + ", ".join(cells), flush=True)


def child_memory(side: str, recompute: bool) -> tuple[float, float]:
    command = [sys.executable, __file__, "--child", side, *(["--recompute"] if recompute else [])]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    start, peak = json.loads(done.stdout.strip().splitlines()[-1])
    return start, peak


def child(side: str, recompute: bool) -> None:
    """MB of resident memory before the first step, and at its peak over three."""
    step = model_step(side, MODEL_TOKENS, recompute=recompute)
    start = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    for _ in range(3):
        step()
    print(json.dumps([start, status_mb("VmHWM")]))


def status_mb(key: str) -> float:
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest layer only")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.child:
        child(chosen.child, chosen.recompute)
        return
    if not chosen.memory_only:
        linear_table(chosen.repeats, chosen.quick)
        model_table(chosen.repeats)
    memory_table()
    print("\nbeyond a limit: " + ("; ".join(missed) or "none"))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()

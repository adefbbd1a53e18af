"""Training throughput and peak memory against TRL's SFTTrainer + PEFT, all sides in one run.

    python benchmarks/throughput.py [--quick] [--vocabulary 32000] [--width 256] [--samples 256] [--json]

Every side trains the same Qwen3 model (4 layers, random weights) with LoRA r = 16 on all linear layers on the same
samples (log-normal lengths 16 … 1024, a loss on every token), one epoch, in fp32, in a process of its own: memory is
that process's peak. Tokens are real ones, without padding. Rates are per second of process time times threads, so
that other work on the machine does not count; the first steps (warm-up) are left out. Nothing is written but stdout.

Sides: `ours` is a stage of tunestudy; `trl packed`, `trl padded` (its default) and `trl grouped` (by length, its
fastest) are SFTTrainer; `plain packed` is a hand-written loop over the same packs with a block mask and full logits.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HEAD_DIM, RANK = 4, 64, 16
ROW_TOKENS, SHORTEST, LONGEST = 2048, 16, 1024
LEARNING_RATE = 1e-4
SIDES = ("ours", "trl packed", "trl padded", "trl grouped", "plain packed")


@dataclass(frozen=True)
class Setting:
    """What all sides share."""

    vocabulary: int
    width: int
    samples: int
    threads: int

    @property
    def heads(self) -> int:
        return self.width // HEAD_DIM

    def linear_shapes(self) -> list[tuple[int, int]]:
        """(in, out) of the adapted layers of one block."""
        d, kv, mlp = self.width, self.width // 2, 3 * self.width
        return [(d, d), (d, kv), (d, kv), (d, d), (d, mlp), (d, mlp), (mlp, d)]

    def flops_per_token(self, lengths: np.ndarray) -> float:
        """Useful ones. A frozen weight costs 2 products (forward, towards the input), LoRA's 3, attention 2 + 4 over
        the causal half."""
        head = 4 * self.width * self.vocabulary
        frozen = 4 * sum(i * o for i, o in self.linear_shapes()) * LAYERS
        lora = 6 * sum(RANK * (i + o) for i, o in self.linear_shapes()) * LAYERS
        mean_context = float((lengths**2).sum() / lengths.sum()) / 2
        return head + frozen + lora + 12 * mean_context * self.heads * HEAD_DIM * LAYERS


@dataclass(frozen=True)
class Measured:
    """One side's result."""

    side: str
    tokens: int
    process_s: float
    wall_s: float
    peak_mb: float
    start_mb: float
    """Peak before training: imports, and for the other sides the model and the data."""


def sample_lengths(setting: Setting) -> np.ndarray:
    """(S,) log-normal, mean about 150."""
    lengths = np.random.default_rng(0).lognormal(4.66, 0.84, setting.samples)
    return np.clip(lengths, SHORTEST, LONGEST).astype(np.int64)


def sample_ids(setting: Setting) -> list[list[int]]:
    """Random tokens; the first four of the vocabulary are special."""
    rng = np.random.default_rng(1)
    return [rng.integers(4, setting.vocabulary, length).tolist() for length in sample_lengths(setting)]


def make_model(setting: Setting, folder: Path) -> None:
    """The model and its tokenizer (one word a token) on disk, for every side to load."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=setting.vocabulary,
        hidden_size=setting.width,
        intermediate_size=3 * setting.width,
        num_hidden_layers=LAYERS,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.heads // 2,
        head_dim=HEAD_DIM,
        max_position_embeddings=ROW_TOKENS,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "<bos>": 3} | {f"w{i}": i for i in range(4, setting.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)


def load_lora_model(folder: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


class Meter:
    """Tokens and time after the warm-up."""

    def __init__(self, warmup_steps: int = 2) -> None:
        self.steps, self.tokens, self.warmup_steps, self.start_mb = 0, 0, warmup_steps, peak_memory_mb()
        self.started = self.ended = self.now()

    @staticmethod
    def now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def step_done(self, tokens: int) -> None:
        """tokens: real ones of this step."""
        self.steps += 1
        if self.steps > self.warmup_steps:
            self.tokens += tokens
        self.ended = self.now()
        if self.steps == self.warmup_steps:
            self.started = self.ended

    def result(self, side: str) -> Measured:
        process_s, wall_s = (end - start for start, end in zip(self.started, self.ended, strict=True))
        return Measured(side, self.tokens, process_s, wall_s, peak_memory_mb(), self.start_mb)


def peak_memory_mb() -> float:
    """High-water mark of this process's resident memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_trl(setting: Setting, folder: Path, side: str) -> Measured:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ways: dict[str, dict[str, Any]] = {
        "trl packed": {"packing": True, "max_length": LONGEST, "per_device_train_batch_size": ROW_TOKENS // LONGEST},
        "trl padded": {"per_device_train_batch_size": 8},
        "trl grouped": {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"},
    }
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(dir=folder),
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        **ways[side],
    )
    trainer = SFTTrainer(
        model=load_lora_model(folder),
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": sample_ids(setting)}),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    meter, seen = Meter(), 0

    class Count(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            nonlocal seen
            total = int(trainer._total_train_tokens)
            meter.step_done(total - seen)
            seen = total

    trainer.add_callback(Count())
    trainer.train()
    return meter.result(side)


def packed_rows(setting: Setting) -> list[list[list[int]]]:
    """Samples in rows of at most ROW_TOKENS, filled first-come, first-served."""
    rows: list[list[list[int]]] = [[]]
    for ids in sample_ids(setting):
        if sum(map(len, rows[-1])) + len(ids) > ROW_TOKENS:
            rows.append([])
        rows[-1].append(ids)
    return rows


def run_loop(setting: Setting, folder: Path, side: str, loss_of_row: Callable[[Any, list[list[int]]], Any]) -> Measured:
    """A plain training loop: AdamW, clipping, one row a step."""
    import torch

    model = load_lora_model(folder)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    model.train()
    meter = Meter()
    for row in packed_rows(setting):
        loss_of_row(model, row).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        meter.step_done(sum(map(len, row)))
    return meter.result(side)


def plain_loss(model: Any, row: list[list[int]]) -> Any:
    """Full logits and a block mask, which transformers makes from positions that restart."""
    import torch

    ids = torch.tensor([[token for sample in row for token in sample]])
    positions = torch.cat([torch.arange(len(sample)) for sample in row])[None]
    targets = ids.roll(-1, 1)
    targets[0, torch.tensor([len(sample) for sample in row]).cumsum(0) - 1] = -100
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[0], targets[0])


def run_side(setting: Setting, folder: Path, side: str) -> Measured:
    import torch

    torch.set_num_threads(setting.threads)
    if side.startswith("trl"):
        return run_trl(setting, folder, side)
    if side == "plain packed":
        return run_loop(setting, folder, side, plain_loss)
    return run_ours(setting, folder)


def run_ours(setting: Setting, folder: Path) -> Measured:
    """A stage as a job of a study runs it: from text on disk to the published adapter; the clock runs in its loop."""
    from tunestudy.config.job import Job
    from tunestudy.records.layout import StudyDir
    from tunestudy.records.stop import StopRequest
    from tunestudy.train import loop
    from tunestudy.train.stage import run_stage
    from tunestudy.train.world import World

    texts = (" ".join(f"w{token}" for token in ids) for ids in sample_ids(setting))
    rows = [json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)]
    (folder / "samples.jsonl").write_text("".join(rows))
    fingerprint = "0" * 64
    job = Job(
        id=f"adapt-{fingerprint[:12]}",
        stage="adapt",
        fingerprint=fingerprint,
        seed=0,
        variants=("lora",),
        model={"model_name_or_path": str(folder)},
        settings={
            "data": "samples",
            "packing": True,
            "max_length": ROW_TOKENS,
            "effective_batch_size": 1,
            "adapter": {"type": "lora", "lora_r": RANK, "lora_alpha": 32},
            "learning_rate": LEARNING_RATE,
            "logging_steps": 10,
        },
        datasets={"samples": {"type": "file", "path": str(folder / "samples.jsonl")}},
    )
    directory = StudyDir(folder / "results" / "throughput").job(job.id)
    directory.root.mkdir(parents=True)
    meter, seen, end_of_step = Meter(), 0, loop.tell_progress

    def counted(run: Any, learning_rate: float) -> None:
        nonlocal seen
        end_of_step(run, learning_rate)
        meter.step_done(run.state.tokens - seen)
        seen = run.state.tokens

    loop.tell_progress = counted
    run_stage(job, directory, World(), StopRequest())
    return meter.result("ours")


def gemm_gflops(threads: int) -> float:
    """Best of five fp32 products of 2048 × 2048, by process time; taken before and after the sides."""
    import torch

    torch.set_num_threads(threads)
    a, b, out = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    times = []
    for _ in range(6):
        start = time.process_time()
        for _ in range(4):
            torch.mm(a, b, out=out)
        times.append((time.process_time() - start) / threads / 4)
    return 2 * 2048**3 / min(times[1:]) / 1e9


def in_own_process(setting: Setting, folder: Path, side: str) -> Measured:
    options = [f"--{name}={value}" for name, value in asdict(setting).items()]
    command = [sys.executable, __file__, "--child", side, "--folder", str(folder), *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def table(setting: Setting, results: list[Measured], gemm: float) -> str:
    flops = setting.flops_per_token(sample_lengths(setting))
    ours = results[0]
    rate = {r.side: r.tokens / (r.process_s / setting.threads) for r in results}
    lines = [
        f"vocabulary {setting.vocabulary}, width {setting.width}, {setting.samples} samples, "
        f"{int(sample_lengths(setting).sum())} tokens, {setting.threads} threads",
        f"GEMM {gemm:.0f} GFLOP/s; useful work {flops / 1e6:.1f} MFLOP a token",
        f"{'side':14}{'tokens/s':>10}{'wall':>8}{'GFLOP/s':>9}{'of GEMM':>9}{'peak MB':>9}{'(start)':>9}"
        f"{'ours is':>9}{'memory':>8}",
    ]
    for r in results:
        useful = rate[r.side] * flops / 1e9
        speed = f"{rate[r.side]:10.0f}{r.tokens / r.wall_s:8.0f}{useful:9.0f}{useful / gemm:9.0%}"
        against = f"{rate['ours'] / rate[r.side]:8.2f}x{ours.peak_mb / r.peak_mb:8.2f}"
        lines.append(f"{r.side:14}{speed}{r.peak_mb:9.0f}{r.start_mb:9.0f}{against}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 samples in place of 256")
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    setting = Setting(chosen.vocabulary, chosen.width, chosen.samples or (64 if chosen.quick else 256), chosen.threads)
    if chosen.child:
        print(json.dumps(asdict(run_side(setting, Path(chosen.folder), chosen.child))))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(setting, Path(folder))
        gemm = gemm_gflops(setting.threads)
        results = [in_own_process(setting, Path(folder), side) for side in chosen.sides.split(",")]
        gemm = max(gemm, gemm_gflops(setting.threads))
    if chosen.json:
        print(json.dumps({"setting": asdict(setting), "gemm_gflops": gemm, "sides": [asdict(r) for r in results]}))
    else:
        print(table(setting, results, gemm))


if __name__ == "__main__":
    main()

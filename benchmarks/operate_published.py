"""Memory that others measured on GPUs, beside what is counted for the same steps. No GPU, no weights.

    python benchmarks/operate_published.py

Counted is what each row's own source does: weights, adapter, gradients and moments all in bfloat16 without autocast,
and its own loss, as far as that is not ours. Blocks are transformers', run on shapes by the code that foresees stages.

LitGPT: tutorials/resource-tables.md (October 2023, commit 0cc02afa) and config_hub/finetune/README.md (September 2024,
00af8b0d), both in github.com/Lightning-AI/litgpt; settings from finetune/lora.py and the config files there. Longest
sample first, `torch.cuda.max_memory_allocated` in GB of 10⁹ bytes, a head of its own even where weights are tied,
logits in chunks of 128 positions that all live until the backward pass is over, and each one's log-softmax.

torchtune: README.md of September 2024 (github.com/pytorch/torchtune, commit 30b8519e); targets and rank from
recipes/configs/llama3_1/8B_{lora,qlora}_single_device.yaml of that commit, which checkpoint activations; the row of the
larger card would not need its size with checkpoints, so it is counted without. `torch.compile` is on. All logits live
until the backward pass reaches their chunk, one of eight, and are gone when it reaches the blocks. The table does not
say whether activations were offloaded, an option since eight days before it: with checkpoints both ends are counted,
the lower one with none of them left on the GPU.

Limit: 15 %, at both ends. Rows that cannot be made again are listed with the reason.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.job import Job
from tunestudy.config.stage import Quantization
from tunestudy.records.atomic import read_json

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "lab")]

LIMIT, GIBIBYTE, HALF = 0.15, 2**30, 2
QUERY_VALUE = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA_2_7B = (32000, 4096, 11008, 32, 32, 32)
LLAMA_3_8B = (128256, 4096, 14336, 32, 32, 8)
"""Vocabulary, width, width of the MLP, blocks, heads, heads of keys."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published figure and the settings behind it."""

    published: float
    unit: float
    shape: tuple[int, int, int, int, int, int]
    rows: int
    length: int
    rank: int
    targets: list[str]
    dropout: float = 0.0
    architecture: str = "llama"
    checkpointing: bool = False
    compiled: bool = False
    few_bits: bool = False


def litgpt(published: float, shape: Any, rows: int, length: int, rank: int, **more: Any) -> Row:
    more = {"targets": QUERY_VALUE, "dropout": 0.05, **more}
    return Row(published=published, unit=1e9, shape=shape, rows=rows, length=length, rank=rank, **more)


def torchtune(published: float, **more: Any) -> Row:
    size: dict[str, Any] = {"shape": LLAMA_3_8B, "rows": 2, "length": 2048, "rank": 8, "compiled": True}
    return Row(published=published, unit=GIBIBYTE, **size, **more)


ROWS = {
    "LitGPT 2023, Llama 2 7B, 1 × 1304": litgpt(21.30, LLAMA_2_7B, 1, 1304, 8),
    "LitGPT 2023, Llama 2 7B, 2 × 1304": litgpt(29.07, LLAMA_2_7B, 2, 1304, 8),
    "LitGPT 2023, Llama 2 13B, 1 × 1304": litgpt(38.12, (32000, 5120, 13824, 40, 40, 40), 1, 1304, 8),
    "LitGPT 2024, Llama 2 7B, 2 × 512": litgpt(19.77, LLAMA_2_7B, 2, 512, 32),
    "LitGPT 2024, Llama 3 8B, 1 × 512": litgpt(19.73, LLAMA_3_8B, 1, 512, 32),
    "LitGPT 2024, Llama 3.2 1B, 1 × 512": litgpt(4.49, (128256, 2048, 8192, 16, 32, 8), 1, 512, 32),
    "LitGPT 2024, Llama 3.2 3B, 1 × 512": litgpt(9.67, (128256, 3072, 8192, 28, 24, 8), 1, 512, 32),
    "LitGPT 2024, Mistral 7B, 2 × 512": litgpt(
        20.66, (32000, 4096, 14336, 32, 32, 8), 2, 512, 32, architecture="mistral"
    ),
    "LitGPT 2024, TinyLlama, 8 × 512": litgpt(13.50, (32000, 2048, 5632, 22, 32, 4), 8, 512, 32, targets=ALL),
    "torchtune LoRA 8B, RTX 4090": torchtune(16.2, targets=QUERY_VALUE, checkpointing=True),
    "torchtune LoRA 8B, A6000": torchtune(30.3, targets=QUERY_VALUE),
    "torchtune QLoRA 8B, RTX 4090": torchtune(7.4, targets=ALL, checkpointing=True, few_bits=True),
}
NOT_MADE_AGAIN = {
    "LitGPT, bnb.nf4": "what bitsandbytes of 2023 kept of every layer, and of the head, is not told",
    "LitGPT, Falcon, phi, StableLM, Gemma": "their blocks there are not transformers' (fused, parallel, or other MLPs)",
    "torchtune full 8B, 18.9 and 37.4 GiB": "weights and gradients in bfloat16, paged or fused optimisers; ours differ",
    "torchtune 70B and 405B on 8 A100": "70B full offloads to the host; ranks' shares of the others are not stated",
    "torchtune README, Llama 3.2 3B": "its rows with LoRA offload activations, which are then not on the GPU",
    "PEFT's comparison, Llama 3.2 3B, 22.3 GB": "the length of its largest batch is not told, and all logits are kept",
    "LLaMA-Factory's table by size": "an estimate, not a measurement, without batch and length",
    "Automodel, tokens per second": "batch and checkpointing are not in our notes; time needs the card",
    "PEFT 3341, FLUX.2-klein, 12.6 against 10.8 GB": "a diffusion model",
    "DeepSpeed's estimate, InternVL 8B, 34 GB": "an estimate, not a measurement",
    "0.49B Llama-like, LoRA r16, 3914 and 2487 MiB": "its widths and depth are not stated",
    "TRL and plain loops on a CPU, 4 layers": "their loss holds all logits; ours does not",
}


def hollow_model(row: Row) -> Any:
    """The row's model with its adapter, all in bfloat16, without numbers."""
    from tinyjob import make_job

    from tunestudy.adapters.attach import attach
    from tunestudy.models.decoder import base_model_of
    from tunestudy.models.hollow import hollow_start
    from tunestudy.train.pretend import drop_as_gpus_do
    from tunestudy.train.stage import checkpoint_activations

    names = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    config = dict(zip([*names, "num_key_value_heads"], row.shape, strict=True))
    model = {
        "architecture": row.architecture,
        "dtype": "bfloat16",
        "config": {**config, "tie_word_embeddings": False, "max_position_embeddings": 8192},
        "tokenizer": {"type": "characters", "alphabet": "abcdefghij =?"},
    }
    with tempfile.TemporaryDirectory() as root:
        folder = make_job(Path(root), model=model)
        start = hollow_start(Job.model_validate(read_json(folder.job_json)), folder)
    adapter = LoraAdapter(lora_r=row.rank, lora_alpha=16, target_modules=row.targets, lora_dropout=row.dropout)
    made = attach(start.model, adapter, seed=1).to(torch.bfloat16).train()
    drop_as_gpus_do(made)
    if row.checkpointing:
        checkpoint_activations(base_model_of(made))
    return made


def counted(row: Row) -> tuple[float, float]:
    """Bytes alive at once, from and to."""
    from tunestudy.train.holdings import few_bit_weights, frozen_bytes
    from tunestudy.train.pretend import peaks_of_decoder

    model = hollow_model(row)
    bits = Quantization(load_in_4bit=True, bnb_4bit_use_double_quant=True) if row.few_bits else None
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    terms = {"frozen": frozen_bytes(model, bits), "adapter": 4 * HALF * learning, "loss": loss_bytes(row)}
    if bits is not None:  # one layer at a time is unpacked while it computes
        terms["unpacked"] = max(HALF * module.weight.numel() for module in few_bit_weights(model).values())
    [terms["activations"]] = peaks_of_decoder(
        model,
        rows=row.rows,
        lengths=[row.length],
        dtype=torch.float32,  # no autocast
        inputs_learn=False,
        compiled=row.compiled and not row.checkpointing,  # of one block alone it matters little
    )
    print("    ", {name: round(value / row.unit, 2) for name, value in terms.items()}, file=sys.stderr)
    if not row.checkpointing:
        return sum(terms.values()), sum(terms.values())
    _, width, _, blocks, _, _ = row.shape
    kept = HALF * row.rows * row.length * width * blocks
    apart = max(terms.pop("activations") - kept, terms.pop("loss"))  # one block's tensors come after the loss's
    return sum(terms.values()) + apart, sum(terms.values()) + apart + kept


def loss_bytes(row: Row) -> int:
    """What lives of the loss when the backward pass begins."""
    tokens, vocabulary = row.rows * row.length, row.shape[0]
    if row.compiled:  # torchtune: softmax and cast are compiled into one; a chunk's gradient in float32, then in half
        return HALF * tokens * vocabulary + tokens // 8 * vocabulary * (4 + HALF)
    return 2 * HALF * tokens * vocabulary + 2 * HALF * row.rows * 128 * vocabulary


def main() -> int:
    """Print the table; 1 when a row is beyond its limit."""
    print(f"limit {LIMIT:.0%}\n\n{'row':<36}{'published':>14}{'counted':>14}{'off':>10}")
    missed = 0
    for name, row in ROWS.items():
        ends = sorted({value / row.unit for value in counted(row)})
        off = [end / row.published - 1 for end in ends]
        missed += max(map(abs, off)) > LIMIT
        unit = "GB" if row.unit == 1e9 else "GiB"
        told, by = "–".join(f"{end:.2f}" for end in ends), "…".join(f"{share:+.0%}" for share in off)
        print(f"{name:<36}{row.published:>10.2f} {unit:<3}{told:>14}{by:>10}", flush=True)
    print(f"\n{missed} of {len(ROWS)} rows beyond {LIMIT:.0%}\n\nNot made again:")
    for name, reason in NOT_MADE_AGAIN.items():
        print(f"  {name}: {reason}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

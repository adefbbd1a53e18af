"""Foreign spellings are understood, and said to be."""

from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.config.stage import TrainStage
from tunestudy.study.aliases import ALIASES, OWN
from tunestudy.study.surface import KEYS

Folder = Any
Edit = Callable[..., str]

STAGE = [
    ("cutoff_len: 64", "max_length", 64),
    ("max_seq_length: 64", "max_length", 64),
    ("sequence_len: 64", "max_length", 64),
    ("lora_rank: 4", "adapter.lora_r", 4),
    ("lora_r: 4", "adapter.lora_r", 4),
    ("lora_alpha: 8", "adapter.lora_alpha", 8),
    ("lora_dropout: 0.1", "adapter.lora_dropout", 0.1),
    ("lora_target: all", "adapter.target_modules", "all-linear"),
    ("lora_target: 'q_proj, v_proj'", "adapter.target_modules", ("q_proj", "v_proj")),
    ("lora_target_modules: [q_proj]", "adapter.target_modules", ("q_proj",)),
    ("lora_target_linear: true", "adapter.target_modules", "all-linear"),
    ("adapter: lora", "adapter.type", "lora"),
    ("finetuning_type: lora", "adapter.type", "lora"),
    ("tuner_type: full", "adapter", None),
    ("use_dora: false", "adapter", None),
    ("use_dora: true", "adapter.type", "dora"),
    ("num_epochs: 2", "num_train_epochs", 2),
    ("micro_batch_size: 4", "per_device_train_batch_size", 4),
    ("warmup_ratio: 0.03", "warmup_steps", 0.03),
    ("gradient_checkpointing: true", "activation_checkpointing", True),
    ("eval_strategy: epoch", "eval_on_epoch_end", True),
    ("{eval_strategy: steps, eval_steps: 5}", "eval_steps", 5),
    ("eval_strategy: 'no'", "eval_on_epoch_end", False),
    ("save_strategy: epoch", "save_steps", None),
    ("save_strategy: steps", "save_on_epoch_end", False),
    ("vit_lr: 1e-5", "learning_rates", {"vision_tower": 1e-5}),
    ("aligner_lr: 1e-5", "learning_rates", {"projector": 1e-5}),
    ("mm_projector_lr: 1e-5", "learning_rates", {"projector": 1e-5}),
    ("{freeze_vit: true, freeze_aligner: false}", "train", ("projector", "language_model")),
    ("{freeze_llm: true, freeze_vit: false}", "train", ("vision_tower",)),
    ("{freeze_aligner: false, adapter: {lora_r: 4}}", "train", ("projector",)),
    ("sample_packing: true", "packing", True),
    ("train_on_inputs: true", "loss_on", "all"),
    ("group_by_length: true", "order", "length_grouped"),
    ("{quantization_bit: 4, adapter: {lora_r: 4}}", "quantization.load_in_4bit", True),
    ("{quant_bits: 8, adapter: {lora_r: 4}}", "quantization.load_in_8bit", True),
    ("{load_in_4bit: true, adapter: {lora_r: 4}}", "quantization.load_in_4bit", True),
    ("load_in_8bit: false", "quantization", None),
    ("adapter: qlora", "quantization.load_in_4bit", True),
    ("{adapter: qlora, load_in_4bit: true, bnb_4bit_quant_type: fp4}", "quantization.bnb_4bit_quant_type", "fp4"),
    (
        "{adapter: qlora, bnb_4bit_compute_dtype: torch.bfloat16}",
        "quantization.bnb_4bit_compute_dtype",
        "bfloat16",
    ),
    ("{adapter: qlora, double_quantization: false}", "quantization.bnb_4bit_use_double_quant", False),
    ("{adapter: qlora, quantization_method: bnb}", "quantization.load_in_4bit", True),
    ("{lora_rank: 4, init_lora_weights: true}", "adapter.init_lora_weights", "default"),
    ("{lora_rank: 4, init_weights: gaussian}", "adapter.init_lora_weights", "gaussian"),
    ("{lora_rank: 4, target_parameters: [experts.up]}", "adapter.target_parameters", ("experts.up",)),
    ("optim: adamw", "optim", "adamw_torch_fused"),
    ("optim: adamw_bnb_8bit", "optim", "adamw_8bit"),
    ("optimizer: paged_adamw", "optim", "paged_adamw_32bit"),
    ("early_stopping_steps: 3", "early_stopping_patience", 3),
    ("early_stop_interval: 3", "early_stopping_patience", 3),
    ("layerwise_lr_decay: 0.9", "layer_lr_decay", 0.9),
    ("merge_lora: true", "save_merged", True),
    ("save_only_model: true", "full_save_steps", None),
    (
        "adapter: {type: sora, rank: 4, sparse_lambda_2: 0.1, sparse_lr: 1e-4}",
        "adapter.sparse_lambda",
        0.1,
    ),
]


def value_of(stage: TrainStage, key: str) -> Any:
    found: Any = stage
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("written", "key", "value"), STAGE, ids=[case[0] for case in STAGE])
def test_of_a_stage(folder: Folder, edited: Edit, written: str, key: str, value: Any) -> None:
    inside = written[1:-1] if written.startswith("{") else written
    loaded = folder.load(edited(("adapt: {data: rotated,", f"adapt: {{data: rotated, {inside},")))
    assert value_of(loaded.study.variants["full"].stages["adapt"], key) == value
    assert loaded.translations
    assert all("study.yaml:17: stages.adapt." in line and " → " in line for line in loaded.translations)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("study: digits", "name: digits", lambda study: study.study == "digits"),
        ("seeds: [1, 2, 3]", "seed: 4", lambda study: study.seeds == (4,)),
        ("  tokenizer", "  torch_dtype: bfloat16\n  tokenizer", lambda study: study.model.dtype == "bfloat16"),
        (
            "  tokenizer",
            "  flash_attn: fa2\n  tokenizer",
            lambda study: study.model.attn_implementation == "flash_attention_2",
        ),
        (
            "held_out: 0.2}\n  rotated",
            "val_set_size: 0.1}\n  rotated",
            lambda study: study.datasets["upright"].held_out == 0.1,
        ),
    ],
)
def test_elsewhere(folder: Folder, edited: Edit, old: str, new: str, found: Callable[[Any], bool]) -> None:
    loaded = folder.load(edited((old, new)))
    assert found(loaded.study)
    assert len(loaded.translations) == 1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "cutoff_len: 64, max_length: 32",
            "means `stages.adapt.max_length`, which line 17 sets to 32; keep one of the two",
        ),
        ("warmup_ratio: 3", "must be a share of all steps between 0 and 1, got 3"),
        ("eval_strategy: sometimes", "must be no, steps or epoch, got sometimes"),
        ("val_size: 0.1", "`held_out: 0.1` in its entry of `datasets:`"),
        ("seed: 3", "`seeds: [1, 2, 3]` at the top of the file"),
        ("output_dir: out", "`--results DIR`"),
        ("freeze_vit: true, train: all", "`train` already says which roles move"),
        ("finetuning_type: full, lora_rank: 4", "belongs under `adapter:`, which is switched off here"),
        ("cutof_len: 64", "did you mean `cutoff_len`?"),
        ("quantization_bit: 3", "must be 4 or 8, got 3"),
        ("quantization_method: hqq", "only bitsandbytes is supported, got hqq"),
        ("lora_rank: 4, init_lora_weights: false", "changes the model before it has learnt anything"),
        ("lora_rank: 4, init_weights: pissa_niter_4", "use pissa, the exact one"),
        ("modules_to_save: [embed_tokens]", "is `train: [role, …]` beside the adapter"),
    ],
)
def test_what_has_no_counterpart_is_told(folder: Folder, edited: Edit, written: str, message: str) -> None:
    told = folder.error(edited(("adapt: {data: rotated,", f"adapt: {{data: rotated, {written},")))
    assert message in told
    assert told.startswith("study.yaml:17: stages.adapt")


def test_no_alias_hides_a_key_of_ours() -> None:
    both = {(level, key) for level, table in ALIASES.items() for key in KEYS[level] & table.keys()}
    assert both == {(level, key) for level, _, key in OWN}


def test_our_own_spellings_print_nothing(folder: Folder) -> None:
    assert folder.load().translations == []

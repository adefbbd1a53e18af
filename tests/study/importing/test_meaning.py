"""What keys mean: batch sizes, defaults that differ, adapters, data, engines."""

import json
from pathlib import Path
from typing import Any

import pytest
from foreign_configs import AXOLOTL, LLAMA, SWIFT, TRL

from tunestudy.config.adapter import LoraAdapter

MEANINGS = [
    # defaults that differ from tunestudy's
    (LLAMA, "adapter.lora_r", 8),
    (LLAMA, "adapter.lora_alpha", 16),
    (LLAMA + "lora_rank: 32\n", "adapter.lora_alpha", 64),
    (LLAMA, "max_length", 2048),
    (LLAMA, "overlong", "truncate"),
    (LLAMA, "num_train_epochs", 3),
    (LLAMA, "activation_checkpointing", True),
    (LLAMA, "effective_batch_size", 8),
    (SWIFT, "adapter.lora_r", 8),
    (SWIFT, "adapter.lora_alpha", 32),
    (SWIFT, "adapter.lora_dropout", 0.05),
    (SWIFT, "weight_decay", 0.1),
    (SWIFT, "adam_beta2", 0.95),
    (SWIFT, "lr_scheduler_type", "cosine"),
    (SWIFT, "learning_rate", 1e-4),
    (SWIFT.replace("tuner_type: lora", "tuner_type: full"), "learning_rate", 1e-5),
    (SWIFT, "effective_batch_size", 16),
    (SWIFT + "per_device_train_batch_size: 6\n", "effective_batch_size", 18),
    (TRL, "adapter.lora_r", 16),
    (TRL, "adapter.lora_alpha", 32),
    (TRL, "adapter.lora_dropout", 0.05),
    (TRL, "loss_on", "all"),
    (TRL, "bf16", True),
    (TRL, "learning_rate", 2e-5),
    (AXOLOTL, "max_length", 512),
    (AXOLOTL, "warmup_steps", 0.03),
    (AXOLOTL, "lr_scheduler_type", "cosine"),
    # what is given
    (LLAMA + "warmup_ratio: 0.1\n", "warmup_steps", 0.1),
    (LLAMA + "warmup_ratio: 0.1\nwarmup_steps: 20\n", "warmup_steps", 20),
    (LLAMA + "learning_rate: '1e-3'\n", "learning_rate", 1e-3),
    (LLAMA + "lora_target: q_proj,v_proj\n", "adapter.target_modules", ("q_proj", "v_proj")),
    (LLAMA + "pissa_init: true\n", "adapter.init_lora_weights", "pissa"),
    (LLAMA + "use_dora: true\n", "adapter.type", "dora"),
    (LLAMA + "quantization_bit: 4\nbf16: true\n", "quantization.bnb_4bit_compute_dtype", "bfloat16"),
    (LLAMA + "neat_packing: true\n", "packing", True),
    (LLAMA + "train_on_prompt: true\n", "loss_on", "all"),
    (LLAMA + "mask_history: true\n", "loss_on", "completion"),
    (LLAMA.replace("stage: sft", "stage: pt"), "packing", True),
    (LLAMA + "eval_strategy: steps\neval_steps: 50\nval_size: 0.1\n", "eval_steps", 50),
    (LLAMA + "save_strategy: epoch\n", "save_steps", None),
    (LLAMA + "save_steps: 50\nsave_only_model: true\n", "full_save_steps", None),
    (LLAMA + "freeze_vision_tower: false\n", "adapter.target", ("vision_tower", "language_model")),
    (LLAMA.replace("org/model", "Qwen/Qwen3-VL-4B"), "adapter.target", ("language_model",)),
    (LLAMA.replace(": lora", ": full") + "freeze_vision_tower: true\n", "train", ("language_model",)),
    (LLAMA + "deepspeed: examples/deepspeed/ds_z0_config.json\n", "engine", "ddp"),
    (LLAMA + "deepspeed: examples/deepspeed/ds_z3_config.json\n", "deepspeed", {"zero_optimization": {"stage": 3}}),
    (LLAMA + "neftune_noise_alpha: 5\n", "neftune_noise_alpha", 5),
    (
        LLAMA + "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-5}\nlearning_rate: 1e-4\n",
        "min_lr_rate",
        0.1,
    ),
    (SWIFT + "vit_lr: 1e-5\n", "learning_rates", {"vision_tower": 1e-5}),
    (SWIFT + "quant_bits: 4\ntorch_dtype: bfloat16\n", "quantization.load_in_4bit", True),
    (SWIFT + "loss_scale: last_round\n", "loss_on", "completion"),
    (SWIFT + "truncation_strategy: right\n", "overlong", "truncate"),
    (SWIFT + "early_stop_interval: 3\nsplit_dataset_ratio: 0.1\n", "early_stopping_patience", 3),
    (SWIFT + "freeze_vit: false\n", "adapter.target", ("vision_tower", "language_model")),
    (AXOLOTL + "sequence_len: 500_000\n", "max_length", 500_000),
    (AXOLOTL + "cosine_min_lr_ratio: 0.1\n", "lr_scheduler_type", "cosine_with_min_lr"),
    (AXOLOTL + "micro_batch_size: 2\nbatch_size: 8\n", "effective_batch_size", 8),
    (AXOLOTL + "fsdp: [full_shard]\nfsdp_config: {fsdp_offload_params: true}\n", "fsdp2.cpu_offload", True),
    (AXOLOTL + "fsdp: [full_shard]\nload_in_4bit: true\n", "fsdp2.shard", "gradients"),
    (AXOLOTL + "optimizer: adamw_bnb_8bit\n", "optim", "adamw_8bit"),
    (AXOLOTL + "bf16: yes\n", "bf16", True),
    (AXOLOTL + "train_on_inputs: true\n", "loss_on", "all"),
    (TRL + "assistant_only_loss: true\n", "loss_on", "assistant"),
    (TRL + "load_in_4bit: true\n", "quantization.bnb_4bit_use_double_quant", False),
    (TRL + "max_seq_length: 300\n", "max_length", 300),
]


@pytest.mark.parametrize(
    ("text", "key", "value"), MEANINGS, ids=[f"{key}-{i}" for i, (_, key, _) in enumerate(MEANINGS)]
)
def test_meaning(text: str, key: str, value: Any, importing: Any) -> None:
    found: Any = importing.stage(text)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_gpus_are_part_of_the_effective_batch(importing: Any) -> None:
    text = LLAMA + "per_device_train_batch_size: 2\ngradient_accumulation_steps: 4\n"
    assert importing.stage(text).effective_batch_size == 8
    assert "with 1 GPU (nothing tells; --gpus N says another number)" in importing.printed
    loaded = importing.study(text, gpus=4)
    assert loaded.study.resources.ranks == 4
    assert loaded.study.variants["lora"].training["tune"].effective_batch_size == 32


def test_a_script_tells_gpus_variables_and_sums(importing: Any) -> None:
    text = "n=4\nNPROC_PER_NODE=$n \\\nMAX_PIXELS=1000 FOO=bar \\\nswift sft --model org/model --use_hf true \\\n"
    text += "  --dataset 'a/b:c/d#10' --gradient_accumulation_steps $(expr 64 / $n / 2) \\\n"
    text += "  --packing --max_length $((2 * 300 + 1))  # a comment\nswift infer --x 1\n"
    loaded = importing.study(text, "train.sh")
    study = loaded.study
    assert study.resources.ranks == 4
    assert study.variants["lora"].training["tune"].effective_batch_size == 4 * 8
    assert study.variants["lora"].training["tune"].packing is True
    assert study.variants["lora"].training["tune"].max_length == 601
    assert study.model.image_processor == {"max_pixels": 1000}
    assert study.env == {"FOO": "bar"}
    (data,) = study.datasets.values()
    assert (data.name, data.subset, data.limit) == ("a/b", "c+d", 10)


def test_arguments_lie_over_the_file(importing: Any) -> None:
    loaded = importing.study(LLAMA, "config.yaml", "--lora_rank", "4", "learning_rate=1e-3")
    stage = loaded.study.variants["lora"].training["tune"]
    assert isinstance(stage.adapter, LoraAdapter)
    assert (stage.adapter.lora_r, stage.adapter.lora_alpha, stage.learning_rate) == (4, 8, 1e-3)


def test_llamafactory_declarations(importing: Any, declared: Path) -> None:
    text = LLAMA.replace("dataset_dir: ONLINE\n", "").replace("org/one,org/two", "alpaca_en_demo, asked, of_hub")
    data = importing.study(text).study.datasets
    assert (data["alpaca_en_demo"].path, data["alpaca_en_demo"].limit) == ("data/alpaca_en_demo.json", 7)
    assert data["asked"].columns == {"instruction": "q", "output": "a"}
    assert (data["of_hub"].name, data["of_hub"].subset, data["of_hub"].split, data["of_hub"].format) == (
        "org/set",
        "en",
        "part",
        "sharegpt",
    )
    assert "asked.columns.tools: tools are not rendered" in importing.printed
    assert "has no alpaca_en; did you mean `alpaca_en_demo`?" in importing.error(text.replace("_demo", ""))
    assert "holds preferences" in importing.error(text.replace("asked", "ranked"))


def test_axolotl_data(importing: Any) -> None:
    (importing.root / "mine.jsonl").write_text('{"q": "1", "a": "2"}\n')
    sets = "datasets:\n- {path: mine.jsonl, type: {field_instruction: q, field_output: a, format: '[INST]'}}\n"
    sets += "- {path: json, data_files: mine.jsonl, type: completion, field: a}\n"
    sets += "- {path: org/chat, name: en, split: 'train[:5%]', type: chat_template, field_messages: turns, shards: 4}\n"
    data = importing.study(AXOLOTL.partition("datasets:")[0] + sets + "val_set_size: 0.05\n").study.datasets
    assert data["mine"].columns == {"instruction": "q", "output": "a"}
    assert (data["mine_2"].format, data["mine_2"].columns) == ("text", {"text": "a"})
    assert (data["chat"].subset, data["chat"].split, data["chat"].columns) == (
        "en",
        "train[:5%]",
        {"messages": "turns"},
    )
    assert {one.held_out for one in data.values()} == {0.05}
    assert "datasets: chat.shards: a part is taken by limit" in importing.printed
    assert "datasets: mine.type.format: prompts are written by the model's chat template" in importing.printed


def test_trl_evaluates_on_its_test_split(importing: Any) -> None:
    loaded = importing.study(TRL + "eval_strategy: epoch\ndataset_config: en\ndataset_test_split: dev\n")
    stage = loaded.study.variants["lora"].training["tune"]
    (part,) = stage.eval_data
    assert loaded.study.datasets[part.dataset].split == "dev"
    assert {one.subset for one in loaded.study.datasets.values()} == {"en"}
    assert stage.eval_on_epoch_end is True


def test_a_deepspeed_file_is_carried_as_far_as_it_is_read(importing: Any) -> None:
    zero = {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto", "round_robin_gradients": True}
    file = importing.root / "ds.json"
    file.write_text(json.dumps({"train_batch_size": "auto", "fp16": {"enabled": "auto"}, "zero_optimization": zero}))
    kept = {"zero_optimization": {"stage": 2, "overlap_comm": True, "round_robin_gradients": True}}
    assert importing.stage(LLAMA + "deepspeed: ds.json\n").deepspeed == kept
    file.write_text(json.dumps({"zero_optimization": {**zero, "zero_quantized_gradients": True}}))
    assert importing.stage(LLAMA + "deepspeed: ds.json\n").engine == "auto"
    assert "zero_quantized_gradients: rounds what travels" in importing.printed


def test_an_output_head_of_its_own_is_told(importing: Any) -> None:
    importing.stage(LLAMA.replace(": lora", ": full") + "freeze_vision_tower: true\n")
    assert "stages.tune.train" in importing.printed and "add `lm_head`" in importing.printed


def test_no_head_is_told_where_an_adapter_sits(importing: Any) -> None:
    importing.stage(LLAMA + "freeze_vision_tower: false\n")
    assert "add `lm_head`" not in importing.printed


def test_the_file_to_write_given_without_its_option(importing: Any) -> None:
    told = importing.error("model_name_or_path: a/b\n", "config.yaml", "mine.yaml")
    assert told == "command line: there is no `mine.yaml` to read; the file to write is named with --output mine.yaml"

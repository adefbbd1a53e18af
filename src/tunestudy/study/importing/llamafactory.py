"""LLaMA-Factory's keys. Source: hiyouga/LLaMA-Factory, src/llamafactory/hparams (0.9.6)."""

from typing import Any

from tunestudy.study.importing import hugging_face
from tunestudy.study.importing.llamafactory_data import data_sets, evaluation_sets
from tunestudy.study.importing.rules import (
    ADAPTER_TO_MERGE,
    ImpossibleError,
    NotNeededError,
    Program,
    Rule,
    View,
    cannot,
    idle,
    listed,
    of_adapter,
    plain,
    switch,
    to,
)
from tunestudy.study.importing.sets import held_out

_PREFERENCES = {"rm": "a reward model", "ppo": "PPO", "dpo": "DPO", "kto": "KTO"}
_OPTIMISER = "this optimiser is not here; the study trains with AdamW, which takes more memory"
_LOSS = "the loss is the mean over target tokens; no other is here"


def _refusal(view: View) -> str | None:
    stage = str(view["stage"])
    if stage in _PREFERENCES:
        return f"stage: {stage} trains {_PREFERENCES[stage]}; preferences and rewards are not what tunestudy does"
    if stage not in ("sft", "pt"):
        return f"stage: {stage} is none of LLaMA-Factory's; a study can be made of sft and pt"
    if "do_train" in view.given and not view.on("do_train"):
        return "do_train is false: this evaluates; `tunestudy eval --model` does, or a study without stages"
    if "do_train" not in view.given and (view.on("do_predict") or view.given.get("export_dir")):
        return "this evaluates or exports and trains nothing; see `tunestudy eval` and `tunestudy merge`"
    if view["finetuning_type"] not in ("lora", "full"):
        method = view["finetuning_type"]
        return f"finetuning_type: {method} is not here; LoRA in its place: import-config FILE -- --finetuning_type lora"
    if "peft_config" in view.given or "train_dataset" in view.given:
        return "this is of LLaMA-Factory's version 1, whose keys are others; write it in those of `finetuning_type`"
    return None


def _kind(value: Any, _view: View) -> dict[str, Any]:
    if value == "pt":
        return {"stage.loss_on": "all"}
    raise NotNeededError("a stage trains on answers")


def _method(value: Any, view: View) -> dict[str, Any]:
    if value == "full":
        return {}
    return {"adapter.type": "dora" if view.on("use_dora") else "lora"}


def _targets(value: Any, _view: View) -> dict[str, Any]:
    if value == "all":
        return {"adapter.target_modules": "all-linear"}
    return {"adapter.target_modules": listed(value)}


def _frozen(_value: Any, view: View) -> dict[str, Any]:
    """`freeze_…` together: roles that an adapter may sit on, or that are trained in full."""
    if not view.is_multimodal:
        raise NotNeededError("a text model, as far as its name tells, has no such part")
    moves = {
        "vision_tower": not view.on("freeze_vision_tower"),
        "projector": not view.on("freeze_multi_modal_projector"),
        "language_model": not view.on("freeze_language_model"),
    }
    if view.has_adapter:
        roles = [role for role, moved in moves.items() if moved and role != "projector"]  # it never puts LoRA there
        return {"adapter.target": roles}
    return {"stage.train": [role for role, moved in moves.items() if moved]}


def _bits(value: Any, view: View) -> dict[str, Any]:
    if view["quantization_method"] not in ("bnb", "bitsandbytes") or plain(value) not in (4, 8):
        raise ImpossibleError("only bitsandbytes in 4 or 8 bits is here; the base stays whole")
    return {f"quantization.load_in_{plain(value)}bit": True, **_compute(view)}


def _compute(view: View) -> dict[str, Any]:
    """It computes in the type that it trains in."""
    kind = "bfloat16" if _half(view) else "float16" if view.on("fp16") else "float32"
    return {"quantization.bnb_4bit_compute_dtype": kind}


def _half(view: View) -> bool:
    return view.on("bf16") or view.on("pure_bf16")


def _template(value: Any, _view: View) -> dict[str, Any]:
    if value in ("default", "empty"):
        raise ImpossibleError(
            "the model's own chat template is used; another is `chat_template:` of the model, in jinja"
        )
    raise NotNeededError("the model's own chat template is used; `tunestudy data` shows its text")


_IDLE = {
    "tokens are cached by what they are made of": "overwrite_cache tokenized_path data_shared_file_system "
    "preprocessing_batch_size cache_dir",
    "told with the data set": "dataset_dir media_dir",
    "belongs to a switch that is told itself": "pissa_iter pissa_convert loraplus_lr_embedding asft_alpha eaft_alpha "
    "mix_strategy quantization_device_map buffer_size hyper_parallel_args",
    "changes no result; tunestudy chooses": "use_unsloth use_unsloth_gc upcast_layernorm print_param_status "
    "use_v1_kernels use_fast_tokenizer offload_folder use_kv_cache split_special_tokens device_map block_diag_attn "
    "ignore_pad_token_for_loss include_effective_tokens_per_second",
    "is for inference": "infer_backend infer_dtype eval_num_beams max_new_tokens temperature top_p top_k "
    "num_beams do_sample repetition_penalty length_penalty skip_special_tokens max_length",
    "losses are reported per data set": "eval_on_each_dataset",
    "ranks are started by `run`": "master_addr master_port",
    "times are in the logs of every job": "enable_torch_profiler",
    "set by the program itself": "compute_dtype model_max_length megatron_bridge_args",
    "is for preferences and rewards": "ld_alpha",
    "told with adapter_name_or_path": "adapter_folder",
    "a new adapter is what a stage begins": "create_new_adapter",
    "thinking is in the data, or in the chat template": "enable_thinking preserve_thinking",
}

RULES: dict[str, Rule] = {
    **hugging_face.RULES,
    **{key: idle(reason) for reason, keys in _IDLE.items() for key in keys.split()},
    "model_name_or_path": to("model.model_name_or_path"),
    "model_revision": to("model.revision"),
    "stage": _kind,
    "finetuning_type": _method,
    "lora_rank": of_adapter(to("adapter.lora_r")),
    "lora_alpha": of_adapter(to("adapter.lora_alpha")),
    "lora_dropout": of_adapter(to("adapter.lora_dropout")),
    "lora_target": of_adapter(_targets),
    "pissa_init": of_adapter(switch({"adapter.init_lora_weights": "pissa"})),
    "loraplus_lr_ratio": of_adapter(cannot("A and B learn at one rate here; a rate between the two is learning_rate")),
    "additional_target": cannot("roles trained in full beside an adapter are `train: [role, …]` of the stage"),
    "adapter_name_or_path": cannot(ADAPTER_TO_MERGE),
    "freeze_vision_tower": _frozen,
    "freeze_multi_modal_projector": _frozen,
    "freeze_language_model": _frozen,
    "dataset": data_sets,
    "eval_dataset": evaluation_sets,
    "val_size": held_out,
    "max_samples": to("dataset.limit"),
    "default_system": to("dataset.system"),
    "cutoff_len": to("stage.max_length"),
    "train_on_prompt": switch({"stage.loss_on": "all"}, {"stage.loss_on": "assistant"}),
    "mask_history": switch({"stage.loss_on": "completion"}),
    "packing": switch({"stage.packing": True}, {"stage.packing": False}),
    "neat_packing": switch({"stage.packing": True}),
    "preprocessing_num_workers": to("stage.preprocessing_num_workers"),
    "template": _template,
    "disable_shuffling": switch({"stage.order": "sequential"}),
    "early_stopping_steps": hugging_face.patience,
    "bf16": switch({"stage.bf16": True, "model.dtype": "bfloat16"}, {"stage.bf16": False}),
    "fp16": switch({"stage.fp16": True, "model.dtype": "float16"}, {"stage.fp16": False}),
    "pure_bf16": switch({"stage.bf16": True, "model.dtype": "bfloat16"}),
    "disable_gradient_checkpointing": switch(
        {"stage.activation_checkpointing": False}, {"stage.activation_checkpointing": True}
    ),
    "quantization_bit": _bits,
    "quantization_method": idle("told with quantization_bit"),
    "quantization_type": of_adapter(to("quantization.bnb_4bit_quant_type")),
    "double_quantization": of_adapter(to("quantization.bnb_4bit_use_double_quant")),
    "image_max_pixels": to("model.image_processor.max_pixels"),
    "image_min_pixels": to("model.image_processor.min_pixels"),
    "ray_num_workers": idle("told with the number of GPUs"),
    "streaming": cannot("data are prepared before the first step; `limit:` of a data set takes a part"),
    "interleave_probs": idle("told with the data sets, as weights"),
    "compute_accuracy": cannot("what is generated and scored is a benchmark: an entry of `benchmarks:`"),
    "rope_scaling": cannot("a longer context is the model's own configuration; give a model that has it"),
    "resize_vocab": cannot("tokens are the model's own; give a model that has them"),
    "moe_aux_loss_coef": cannot("the balance of a model's own experts is not in the loss; expert_log.csv watches it"),
    "use_muon": cannot(_OPTIMISER),
    "use_adam_mini": cannot(_OPTIMISER),
    "use_galore": cannot(_OPTIMISER),
    "use_apollo": cannot(_OPTIMISER),
    "use_badam": cannot(_OPTIMISER),
    "use_dft_loss": cannot(_LOSS),
    "use_asft_loss": cannot(_LOSS),
    "use_eaft_loss": cannot(_LOSS),
    "use_llama_pro": cannot("new blocks cannot be put into a model; use an adapter"),
    "fp8": cannot("weights and activations in 8 bits are not here; use bf16"),
    "train_from_scratch": cannot("random weights are `architecture:` and `config:` of the model"),
    "mixture_of_depths": cannot("layers cannot be skipped by token"),
    "shift_attn": cannot("attention is the model's own"),
    "upcast_lmhead_output": idle("logits are in float32 anyway"),
    "tool_format": cannot("tools are not rendered; write them into the prompts"),
    "use_mca": cannot("engines are single, ddp, fsdp2 and deepspeed"),
    "use_megatron_bridge": cannot("engines are single, ddp, fsdp2 and deepspeed"),
    "use_hyper_parallel": cannot("engines are single, ddp, fsdp2 and deepspeed"),
    "hyper_parallel_cp_size": cannot("sequences are not cut between ranks", unless=(1, None)),
    "use_kt": cannot("experts stay on the GPU; use quantization or fsdp2: {cpu_offload: true}"),
    "use_swanlab": cannot("SwanLab is not among the trackers here"),
}

_SUB = "belongs to a switch that is told itself"
FAMILIES: tuple[tuple[str, Rule], ...] = (
    *((start, idle(_SUB)) for start in ("galore_", "apollo_", "badam_", "swanlab_", "kt_", "fp8_", "ray_")),
    *(
        (start, idle("is for preferences and rewards"))
        for start in ("pref_", "ppo_", "kto_", "dpo_", "simpo_", "ref_model")
    ),
    *((start, idle("is for inference")) for start in ("vllm_", "sglang_", "export_", "generation_")),
    *((start, idle("is for video or audio, which no stage trains on")) for start in ("video_", "audio_", "use_audio")),
    ("oft_", cannot("there is no OFT here; use lora or dora")),
    ("module_dropout", cannot("there is no OFT here; use lora or dora")),
    (
        "freeze_",
        cannot("layers cannot be chosen by number; train: [role, …] chooses roles, adapter.target_modules layers"),
    ),
    ("add_", cannot("tokens are the model's own; give a model that has them")),
    ("profile", idle("times are in the logs of every job")),
    ("reward_model", idle("is for preferences and rewards")),
    ("image_do_", cannot("how images are cut is the model's own image processor")),
    ("crop_to_patches", cannot("how images are cut is the model's own image processor")),
    ("new_special_tokens", cannot("tokens are the model's own; give a model that has them")),
    ("init_special_tokens", idle(_SUB)),
)

PROGRAM = Program(
    name="llamafactory",
    title="LLaMA-Factory",
    source="https://github.com/hiyouga/LLaMA-Factory",
    rules=RULES,
    families=FAMILIES,
    defaults={
        **hugging_face.DEFAULTS,
        "stage": "sft",
        "finetuning_type": "lora",
        "lora_rank": 8,
        "lora_alpha": lambda view: 2 * int(plain(view["lora_rank"])),
        "lora_target": "all",
        "cutoff_len": 2048,
        "packing": lambda view: view["stage"] == "pt",
        "quantization_method": "bnb",
        "disable_gradient_checkpointing": False,
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
    },
    habits={"stage.overlong": ("truncate", "cuts what is longer")},
    refusal=_refusal,
    has_adapter=lambda view: view["finetuning_type"] == "lora",
    marks=frozenset({"stage", "template", "finetuning_type", "cutoff_len", "lora_target"}),
)

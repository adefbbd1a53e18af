"""ms-swift's keys. Source: modelscope/ms-swift, swift/arguments and swift/trainers/arguments.py (4.6)."""

import math
from typing import Any

from tunestudy.study.importing import hugging_face
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
    words,
)
from tunestudy.study.importing.sets import held_out
from tunestudy.study.importing.swift_data import data_sets, evaluation_sets

_TUNERS = {"lora": "lora", "lora_llm": "lora"}
_STARTS: dict[Any, str] = {"true": "default", True: "default"}
_STARTS |= {name: name for name in ("gaussian", "pissa", "olora", "orthogonal")}
_COMMANDS = {
    "swift rlhf": "swift rlhf trains on preferences or rewards, which is not what tunestudy does",
    "megatron": "megatron's keys are others: import the `swift sft` form of it",
}


def _refusal(view: View) -> str | None:
    command = str(view.given.get("command", ""))
    for start, reason in _COMMANDS.items():
        if command.startswith(start):
            return reason
    if view["rlhf_type"]:
        return f"rlhf_type: {view['rlhf_type']}; preferences and rewards are not what tunestudy does"
    if view["task_type"] not in (None, "causal_lm"):
        return f"task_type: {view['task_type']} trains no language model; tunestudy trains models that answer in text"
    tuner = str(view["tuner_type"])
    if tuner != "full" and tuner not in _TUNERS:
        return f"tuner_type: {tuner} is not here; to have LoRA in its place: import-config FILE -- --tuner_type lora"
    return None


def _notes(view: View) -> list[str]:
    told = []
    if "max_length" not in view.given:
        told.append(
            "stages.tune.max_length: ms-swift takes what the model holds; this is a bound, mend it to your data"
        )
    if not (view.on("use_hf") or view.on("env.USE_HF")):
        told.append("model: ms-swift reads ModelScope's hub, and tunestudy Hugging Face's: see that the id is the same")
    return told


def _tuner(value: Any, view: View) -> dict[str, Any]:
    if value == "full":
        return {}
    return {"adapter.type": "dora" if view.on("use_dora") else "lora"}


def _targets(value: Any, _view: View) -> dict[str, Any]:
    names = listed(value)
    return {"adapter.target_modules": "all-linear" if names in (["all-linear"], ["ALL"]) else names}


def _frozen(_value: Any, view: View) -> dict[str, Any]:
    """`freeze_…` together: roles that an adapter sits on, or that are trained in full."""
    if not view.is_multimodal:
        raise NotNeededError("a text model, as far as its name tells, has no such part")
    moves = {
        "vision_tower": not view.on("freeze_vit"),
        "projector": not view.on("freeze_aligner"),
        "language_model": not view.on("freeze_llm"),
    }
    if view["tuner_type"] == "lora_llm":
        return {"adapter.target": ["language_model"], "stage.train": ["vision_tower", "projector"]}
    path = "adapter.target" if view.has_adapter else "stage.train"
    return {path: [role for role, moved in moves.items() if moved]}


def _dtype(value: Any, view: View) -> dict[str, Any]:
    """It trains in the type that weights are loaded in, float32 under a loss scaler for float16."""
    half = {"bfloat16": "stage.bf16", "float16": "stage.fp16", "float32": "stage.fp16"}
    if value not in half:
        raise ImpossibleError(f"there is no {value} here; known are {', '.join(half)}")
    told = {} if "bf16" in view.given or "fp16" in view.given else {half[value]: True}
    return {"model.dtype": value, **told}


def _evaluates(view: View) -> bool:
    return bool(plain(view["split_dataset_ratio"]) or view["val_dataset"])


def _evaluations(value: Any, view: View) -> dict[str, Any]:
    if not _evaluates(view):
        raise NotNeededError("there are no rows to evaluate on")
    return hugging_face.evaluations(value, view)


def _evaluation_steps(value: Any, view: View) -> dict[str, Any]:
    if not _evaluates(view):
        raise NotNeededError("there are no rows to evaluate on: split_dataset_ratio is 0")
    return hugging_face.evaluation_steps(value, view)


def _loss(value: Any, _view: View) -> dict[str, Any]:
    base, *more = str(value).split("+")
    known = {"default": "assistant", "last_round": "completion", "all": "all"}
    if base not in known:
        raise ImpossibleError("tokens cannot be weighted: they count, or they do not (loss_on)")
    if more:
        raise ImpossibleError(f"{'+'.join(more)}: tokens cannot be weighted: they count, or they do not (loss_on)")
    return {"stage.loss_on": known[base]}


def _few_bits(value: Any, view: View) -> dict[str, Any]:
    if view["quant_method"] not in ("bnb", None) or plain(value) not in (4, 8):
        raise ImpossibleError("only bitsandbytes in 4 or 8 bits is here; the base stays whole")
    kind = view["bnb_4bit_compute_dtype"] or view["torch_dtype"] or "bfloat16"
    return {f"quantization.load_in_{plain(value)}bit": True, "quantization.bnb_4bit_compute_dtype": kind}


def _of_bits(path: str) -> Rule:
    def rule(value: Any, view: View) -> dict[str, Any]:
        if not view["quant_bits"]:
            raise NotNeededError("quant_bits is not set")
        return {path: plain(value)}

    return rule


def _rate(role: str) -> Rule:
    return lambda value, _view: {f"stage.learning_rates.{role}": plain(value)}


def _accumulation(view: View) -> int:
    return max(1, math.ceil(16 / int(plain(view["per_device_train_batch_size"])) / view.gpus))


_IDLE = {
    "is for inference": "max_new_tokens temperature top_k top_p repetition_penalty num_beams infer_backend stream "
    "logprobs top_logprobs stop_words structured_outputs_regex",
    "told with task_type": "num_labels problem_type",
    "tokens are cached by what they are made of": "load_from_cache_file download_mode packing_num_proc lazy_tokenize",
    "told with the data sets": "columns use_hf custom_dataset_info strict disable_auto_column_mapping",
    "told with the switch that it belongs to": "quant_method hqq_axis interleave_prob stopping_strategy "
    "shuffle_buffer_size packing_strategy lora_ga_batch_size lora_ga_iters lora_ga_max_length max_memory "
    "eval_dataset_args eval_limit eval_generation_config extra_eval_args fsdp_config zero_hpz_partition_size",
    "the library chooses the class": "model_type tuner_backend experts_impl init_strategy check_model",
    "results go to `--results DIR`": "add_version create_checkpoint_symlink load_args load_data_args",
    "changes no result; tunestudy chooses": "padding_free vit_gradient_checkpointing use_logits_to_keep device_map "
    "padding_side lora_dtype ds3_gather_for_generation acc_strategy use_flash_ckpt enable_npu_model_patch "
    "val_dataset_shuffle is_binary_loss_scale use_ray device_groups",
    "losses are reported per data set": "enable_channel_loss",
    "unknown keys are told": "ignore_args_error",
    "thinking is in the data, or in the chat template": "enable_thinking preserve_thinking add_non_thinking_prefix "
    "disable_ignore_empty_think response_prefix",
}
_TOKENS = "tokens are the model's own; give a model that has them"
_LAYERS = "layers cannot be chosen so; train: [role, …] chooses roles, adapter.target_modules layers"
_NAMES = "swift writes names into its own data set self-cognition; write them into the records"

RULES: dict[str, Rule] = {
    **hugging_face.RULES,
    **{key: idle(reason) for reason, keys in _IDLE.items() for key in keys.split()},
    "model": to("model.model_name_or_path"),
    "model_id_or_path": to("model.model_name_or_path"),
    "model_revision": to("model.revision"),
    "torch_dtype": _dtype,
    "tuner_type": _tuner,
    "train_type": _tuner,
    "sft_type": _tuner,
    "dataset": data_sets,
    "val_dataset": evaluation_sets,
    "split_dataset_ratio": held_out,
    "system": to("dataset.system"),
    "max_length": to("stage.max_length"),
    "truncation_strategy": words("stage.overlong", {"delete": "reject", "right": "truncate"}, "delete and right are"),
    "packing": switch({"stage.packing": True}, {"stage.packing": False}),
    "packing_length": to("stage.max_length"),
    "loss_scale": _loss,
    "dataset_num_proc": to("stage.preprocessing_num_workers"),
    "dataset_shuffle": switch({"stage.order": "shuffle"}, {"stage.order": "sequential"}),
    "train_dataloader_shuffle": switch({"stage.order": "shuffle"}, {"stage.order": "sequential"}),
    "lora_rank": of_adapter(to("adapter.lora_r")),
    "lora_alpha": of_adapter(to("adapter.lora_alpha")),
    "lora_dropout": of_adapter(to("adapter.lora_dropout")),
    "target_modules": of_adapter(_targets),
    "target_regex": of_adapter(to("adapter.target_modules")),
    "target_parameters": of_adapter(to("adapter.target_parameters")),
    "init_weights": of_adapter(words("adapter.init_lora_weights", _STARTS)),
    "lora_bias": cannot("biases do not learn beside an adapter"),
    "lorap_lr_ratio": of_adapter(cannot("A and B learn at one rate here; a rate between the two is learning_rate")),
    "modules_to_save": cannot("roles trained in full beside an adapter are `train: [role, …]` of the stage"),
    "adapters": cannot(ADAPTER_TO_MERGE),
    "freeze_vit": _frozen,
    "freeze_aligner": _frozen,
    "freeze_llm": _frozen,
    "vit_lr": _rate("vision_tower"),
    "aligner_lr": _rate("projector"),
    "freeze_parameters": cannot(_LAYERS),
    "trainable_parameters": cannot(_LAYERS),
    "freeze_parameters_regex": cannot(_LAYERS),
    "trainable_parameters_regex": cannot(_LAYERS),
    "freeze_parameters_ratio": cannot(_LAYERS),
    "quant_bits": _few_bits,
    "bnb_4bit_compute_dtype": idle("told with quant_bits"),
    "bnb_4bit_quant_type": _of_bits("quantization.bnb_4bit_quant_type"),
    "bnb_4bit_use_double_quant": _of_bits("quantization.bnb_4bit_use_double_quant"),
    "bnb_4bit_quant_storage": _of_bits("quantization.bnb_4bit_quant_storage"),
    "max_pixels": to("model.image_processor.max_pixels"),
    "eval_strategy": _evaluations,
    "eval_steps": _evaluation_steps,
    "early_stop_interval": hugging_face.patience,
    "streaming": cannot("data are prepared before the first step; `limit:` of a data set takes a part"),
    "cached_dataset": cannot("tokens are cached here by what they are made of; name the data set itself"),
    "cached_val_dataset": cannot("tokens are cached here by what they are made of; name the data set itself"),
    "model_name": cannot(_NAMES),
    "model_author": cannot(_NAMES),
    "template": idle("the model's own chat template is used; `tunestudy data` shows its text"),
    "template_backend": idle("the model's own chat template is used"),
    "use_chat_template": switch({}, None),
    "agent_template": cannot("tools are not rendered; write them into the prompts"),
    "norm_bbox": cannot("boxes in texts are left as they are"),
    "sequence_parallel_size": cannot("sequences are not cut between ranks", unless=(1, None)),
    "deepspeed_autotp_size": cannot("matrices are not cut between ranks; use zero3"),
    "new_special_tokens": cannot(_TOKENS),
    "rope_scaling": cannot("a longer context is the model's own configuration; give a model that has it"),
    "max_model_len": cannot("a longer context is the model's own configuration; give a model that has it"),
    "router_aux_loss_coef": cannot(
        "the balance of a model's own experts is not in the loss; expert_log.csv watches it"
    ),
    "enable_dft_loss": cannot("the loss is the mean over target tokens; no other is here"),
    "loss_type": cannot("the loss is the mean over target tokens; no other is here"),
    "optimizer": cannot("this optimiser is not here; the study trains with AdamW"),
    "use_galore": cannot("this optimiser is not here; the study trains with AdamW"),
    "lisa_activated_layers": cannot("layers do not take turns; use an adapter"),
    "eval_metric": cannot("what is generated and scored is a benchmark: an entry of `benchmarks:`"),
    "eval_use_evalscope": cannot("what is generated and scored is a benchmark: an entry of `benchmarks:`"),
    "eval_dataset": cannot("these are evalscope's: entries of `benchmarks:`; rows for losses are val_dataset"),
    "callbacks": cannot("there are no callbacks; write a script around `tunestudy run`"),
    "external_plugins": cannot("code of one's own is in packages: docs/extending.md"),
    "custom_register_path": cannot("code of one's own is in packages: docs/extending.md"),
    "remove_unused_columns": idle("columns are chosen by the format"),
    "model_kwargs": cannot("options of a class are its configuration; give a model that has them"),
    "use_swift_lora": cannot("there is one LoRA here: tuner_type lora"),
    "max_epochs": cannot("num_train_epochs says when to end"),
    "local_repo_path": cannot("code of a model comes with it: trust_remote_code"),
    "rlhf_type": idle("told above"),
    "task_type": idle("a stage trains on answers"),
}

_SUB = "belongs to a switch that is told itself"
_TUNER = "belongs to a tuner that is not here"
FAMILIES: tuple[tuple[str, Rule], ...] = (
    *((start, idle(_SUB)) for start in ("galore_", "swanlab_", "lisa_", "hqq_", "lora_ga_", "mrl_")),
    *((start, idle(_TUNER)) for start in ("fourier_", "boft_", "vera_", "adapter_", "adalora_", "llamapro_", "reft_")),
)

PROGRAM = Program(
    name="ms-swift",
    title="ms-swift",
    source="https://github.com/modelscope/ms-swift",
    rules=RULES,
    families=FAMILIES,
    defaults={
        **hugging_face.DEFAULTS,
        "tuner_type": lambda view: view.given.get("train_type") or view.given.get("sft_type") or "lora",
        "torch_dtype": "bfloat16",
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["all-linear"],
        "learning_rate": lambda view: 1e-5 if view["tuner_type"] == "full" else 1e-4,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": _accumulation,
        "gradient_checkpointing": True,
        "logging_steps": 5,
        "max_length": 32768,
        "data_seed": 42,
        "report_to": ["tensorboard"],
        "dataloader_num_workers": 1,
        "split_dataset_ratio": 0,
        "eval_strategy": lambda view: view["save_strategy"],
        "eval_steps": lambda view: view["save_steps"],
        "freeze_vit": True,
        "freeze_aligner": True,
    },
    notes=_notes,
    refusal=_refusal,
    has_adapter=lambda view: bool(_TUNERS.get(view["tuner_type"])),
    marks=frozenset({"model", "tuner_type", "split_dataset_ratio", "lora_rank", "target_modules"}),
)

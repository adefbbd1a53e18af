"""axolotl's keys. Source: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas and core/builders (0.18)."""

from typing import Any

from tunestudy.study.importing import hugging_face
from tunestudy.study.importing.axolotl_data import data_sets, evaluation_sets, pretraining_sets
from tunestudy.study.importing.rules import (
    ADAPTER_TO_MERGE,
    ImpossibleError,
    NotNeededError,
    Program,
    Rule,
    View,
    cannot,
    few_bits,
    idle,
    of_adapter,
    plain,
    switch,
    to,
    truth,
    words,
)
from tunestudy.study.importing.sets import share


def _refusal(view: View) -> str | None:
    if view["rl"]:
        return f"rl: {view['rl']} trains on preferences or rewards, which is not what tunestudy does"
    for key in ("reward_model", "process_reward_model"):
        if view.on(key):
            return f"{key} trains a model of rewards, which is not what tunestudy does"
    if view["adapter"] not in (None, "lora", "qlora"):
        return (
            f"adapter: {view['adapter']} is not here; to have LoRA in its place: import-config FILE -- --adapter lora"
        )
    return None


def _adapter(_value: Any, view: View) -> dict[str, Any]:
    return {"adapter.type": "dora" if view.on("peft_use_dora") else "lora"}


def _linear(value: Any, view: View) -> dict[str, Any]:
    if not truth(value) or view.given.get("lora_target_modules"):
        raise NotNeededError("lora_target_modules counts" if truth(value) else "switched off")
    return {"adapter.target_modules": "all-linear"}


def _dtype(view: View) -> str:
    """The type that frozen weights are held in, as axolotl's `resolve_dtype` has it where bfloat16 is supported."""
    if view["bf16"] in ("auto", "full") or view.on("bf16") or view.on("bfloat16"):
        return "bfloat16"
    return "float16" if view.on("fp16") or view.on("float16") or view.on("load_in_8bit") else "float32"


def _half(value: Any, view: View) -> dict[str, Any]:
    if value in ("auto", "full") or truth(value):
        return {"stage.bf16": True, "model.dtype": "bfloat16"}
    return {"stage.bf16": False, "model.dtype": _dtype(view)}


def _half_float(value: Any, view: View) -> dict[str, Any]:
    if not truth(value):
        raise NotNeededError("switched off")
    if _dtype(view) == "bfloat16":
        raise NotNeededError("bf16 counts")
    return {"stage.fp16": True, "model.dtype": "float16"}


def _scheduler(value: Any, view: View) -> dict[str, Any]:
    floor = view.given.get("cosine_min_lr_ratio")
    if value == "cosine" and floor:
        return {"stage.lr_scheduler_type": "cosine_with_min_lr"}
    return words("stage.lr_scheduler_type", hugging_face.SCHEDULES)(value, view)


def _floor(value: Any, view: View) -> dict[str, Any]:
    if view["lr_scheduler"] != "cosine":
        raise NotNeededError("is for the schedule cosine")
    return {"stage.lr_scheduler_type": "cosine_with_min_lr", "stage.min_lr_rate": plain(value)}


def _checkpointing(value: Any, _view: View) -> dict[str, Any]:
    kept = value in ("offload", "offload_disk") or bool(truth(value))
    return {"stage.activation_checkpointing": kept}


def _held_out(value: Any, view: View) -> dict[str, Any]:
    if not plain(value) or view.given.get("test_datasets"):
        raise NotNeededError("nothing is held out")
    return share(value)


def _per_epoch(key: str, path: str) -> Rule:
    def rule(value: Any, view: View) -> dict[str, Any]:
        if key == "evals" and not plain(view["val_set_size"]) and not view.given.get("test_datasets"):
            raise NotNeededError("there are no rows to evaluate on")
        if plain(value) == 1:
            return {path: True}
        steps = "eval_steps" if key == "evals" else "save_steps"
        raise ImpossibleError(
            f"once an epoch is here, or by steps: `plan` says how many an epoch has; {steps} is that ÷ {value}"
        )

    return rule


def _saving(value: Any, view: View) -> dict[str, Any]:
    steps = hugging_face.counted(value)
    return {"stage.save_steps": steps, "stage.full_save_steps": None if view.on("save_only_model") else steps}


def _evaluations(value: Any, view: View) -> dict[str, Any]:
    if view.given.get("eval_steps"):
        raise NotNeededError("eval_steps counts")
    return hugging_face.evaluations(value, view)


def _batch(value: Any, view: View) -> dict[str, Any]:
    return {"stage.effective_batch_size": int(plain(value)) * view.gpus}


def _tracker(name: str) -> Rule:
    def rule(value: Any, view: View) -> dict[str, Any]:
        if not truth(value):
            raise NotNeededError("switched off")
        return hugging_face.trackers([name], view)

    return rule


def _accumulation(view: View) -> int:
    whole = view.given.get("batch_size")
    return max(1, int(plain(whole)) // int(plain(view["micro_batch_size"]))) if whole else 1


_IDLE = {
    "tokens are cached by what they are made of": "dataset_prepared_path skip_prepare_dataset dataset_keep_in_memory "
    "num_dataset_shards_to_save is_preprocess preprocess_iterable total_num_tokens total_supervised_tokens "
    "sample_packing_eff_est axolotl_config_path shuffle_before_merging_datasets",
    "changes no result; tunestudy chooses": "lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_embedding_kernel "
    "flash_attention sdp_attention xformers_attention eager_attention flex_attention flash_attn_cross_entropy "
    "flash_attn_fuse_mlp flash_attn_rms_norm flex_attn_compile_kwargs sage_attention sdpa_varlen fused_attn_kernel "
    "gc_steps gc_collect_steps pad_to_sequence_len pad_to_multiple_of activation_offloading layer_offloading "
    "selective_checkpointing tiled_mlp tiled_mlp_num_shards chunked_cross_entropy chunked_cross_entropy_num_chunks "
    "sample_packing_group_size sample_packing_bin_size sample_packing_mp_start_method batch_flattening device "
    "device_map world_size ddp fsdp_version fsdp_final_state_dict_type lora_on_cpu qlora_sharded_model_loading "
    "experimental_skip_move_to_device use_kernels max_memory gpu_memory_limit torch_compile_options deepcompile "
    "embeddings_skip_upcast multipack_real_batches peft_autocast_adapter_dtype experts_implementation "
    "large_head_attention flash_attn_d512 fp32_norms fp32_norm_classes llama4_linearized_experts flash_optimum",
    "the library chooses the class": "model_type tokenizer_type processor_type base_model_config tokenizer_use_fast "
    "tokenizer_legacy tokenizer_save_jinja_files is_falcon_derived_model is_llama_derived_model type_of_model "
    "is_mistral_derived_model is_qwen_derived_model trainer_cls cls_model_config tokenizer_use_mistral_common",
    "told with the data sets": "chat_template_kwargs dataset_exact_deduplication test_datasets_split",
    "evaluation packs as training does": "eval_sample_packing",
    "whatever is set wrong is an error": "strict",
    "a job that runs away is stopped by hand; a loss that is no number stops it": "loss_watchdog_threshold "
    "loss_watchdog_patience",
    "told with the tracker": "wandb_project wandb_entity wandb_watch wandb_name wandb_log_model wandb_mode "
    "wandb_run_id hf_use_auth_token",
    "belongs to a switch that is told itself": "loraplus_lr_embedding bnb_config_kwargs eaft_alpha eaft_k "
    "lora_fan_in_fan_out use_ray resources_per_worker merge_method num_labels",
    "checkpoints are written when they are due": "save_first_step dynamic_checkpoint auto_resume_from_checkpoints",
    "is for generating while training": "do_bench_eval bench_dataset bench_split do_causal_lm_eval "
    "eval_causal_lm_metrics generate_samples",
    "is for generating": "eval_max_new_tokens eval_table_size",
    "is for preferences and rewards": "center_rewards_coefficient max_prompt_len rpo_alpha ebft "
    "precompute_ref_log_probs",
    "told above": "reward_model process_reward_model",
    "kernels change no result": "gemma4_hybrid_attn_impl use_scattermoe use_sonicmoe tiled_mlp_use_original_mlp "
    "heads_k_stride ring_attn_func",
    "belongs to a key that is told itself": "fp8_enable_fsdp_float8_all_gather model_quantization_config_kwargs "
    "scaling_softmax_bias scaling_softmax_factor mean_resizing_embeddings ray_run_name streaming_multipack_buffer_size",
    "results hold adapter and base apart": "merge_lora push_dataset_to_hub",
}
_TOKENS = "tokens are the model's own; give a model that has them"
_LOSS = "the loss is the mean over target tokens; no other is here"
_CUT = "sequences and matrices are not cut between ranks; engines are ddp, fsdp2 and deepspeed"
_LAYERS = "layers cannot be chosen so; train: [role, …] chooses roles, adapter.target_modules layers"


def _special_tokens(value: Any, _view: View) -> dict[str, Any]:
    if isinstance(value, dict) and set(value) <= {"pad_token"}:
        raise NotNeededError("padding is never learnt, whatever stands for it")
    raise ImpossibleError(_TOKENS)


def _plugins(value: Any, _view: View) -> dict[str, Any]:
    known = ("cut_cross_entropy", "liger", "kernels")
    for plugin in value if isinstance(value, list) else [value]:
        if not any(name in str(plugin).lower() for name in known):
            raise ImpossibleError(f"{plugin} is axolotl's own code and does not run here")
    raise NotNeededError("the loss is computed in pieces anyway; kernels change no result")


RULES: dict[str, Rule] = {
    **hugging_face.RULES,
    **{key: idle(reason) for reason, keys in _IDLE.items() for key in keys.split()},
    "base_model": to("model.model_name_or_path"),
    "revision_of_model": to("model.revision"),
    "tokenizer_config": to("model.tokenizer"),
    "overrides_of_model_config": cannot("options of a class are its configuration; give a model that has them"),
    "overrides_of_model_kwargs": cannot("options of a class are its configuration; give a model that has them"),
    "bf16": _half,
    "bfloat16": _half,
    "fp16": _half_float,
    "float16": _half_float,
    "adapter": _adapter,
    "lora_model_dir": cannot(ADAPTER_TO_MERGE),
    "lora_r": of_adapter(to("adapter.lora_r")),
    "lora_alpha": of_adapter(to("adapter.lora_alpha")),
    "lora_dropout": of_adapter(to("adapter.lora_dropout")),
    "lora_target_modules": of_adapter(to("adapter.target_modules")),
    "lora_target_linear": of_adapter(_linear),
    "lora_target_parameters": of_adapter(to("adapter.target_parameters")),
    "lora_rank_pattern": of_adapter(to("adapter.rank_pattern")),
    "lora_alpha_pattern": of_adapter(to("adapter.alpha_pattern")),
    "peft_use_dora": of_adapter(switch({"adapter.type": "dora"})),
    "peft_use_rslora": of_adapter(switch({"adapter.use_rslora": True})),
    "peft_init_lora_weights": of_adapter(
        words(
            "adapter.init_lora_weights", {True: "default", "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}
        )
    ),
    "peft_layers_to_transform": cannot(_LAYERS),
    "peft_layers_pattern": cannot(_LAYERS),
    "unfrozen_parameters": cannot(_LAYERS),
    "freeze_mm_modules": switch({"stage.train": ["language_model"]}),
    "lora_modules_to_save": cannot("roles trained in full beside an adapter are `train: [role, …]` of the stage"),
    "loraplus_lr_ratio": of_adapter(cannot("A and B learn at one rate here; a rate between the two is learning_rate")),
    "relora": cannot("an adapter is merged and begun anew by a second stage: init: merge_then_new"),
    "peft": cannot("LoftQ is not here; init_lora_weights knows pissa and olora"),
    "load_in_4bit": few_bits(4, held=_dtype, cure="add an adapter"),
    "load_in_8bit": few_bits(8, held=_dtype, cure="add an adapter"),
    "gptq": cannot("only bitsandbytes is here; give the model that is not quantised"),
    "datasets": data_sets,
    "test_datasets": evaluation_sets,
    "pretraining_dataset": pretraining_sets,
    "val_set_size": _held_out,
    "shuffle_merged_datasets": switch({"stage.order": "shuffle"}, {"stage.order": "sequential"}),
    "curriculum_sampling": switch({"stage.order": "sequential"}),
    "sample_packing_sequentially": switch({"stage.order": "sequential"}),
    "dataset_processes": to("stage.preprocessing_num_workers"),
    "dataset_num_proc": to("stage.preprocessing_num_workers"),
    "sequence_len": to("stage.max_length"),
    "eval_sequence_len": cannot("evaluation has the length of training: max_length"),
    "min_sample_len": cannot("short samples count"),
    "excess_length_strategy": words("stage.overlong", {"drop": "reject", "truncate": "truncate"}),
    "sample_packing": switch({"stage.packing": True}, {"stage.packing": False}),
    "train_on_inputs": switch({"stage.loss_on": "all"}, {"stage.loss_on": "assistant"}),
    "chat_template": idle("the model's own chat template is used; `tunestudy data` shows its text"),
    "chat_template_jinja": to("model.chat_template"),
    "default_system_message": to("dataset.system"),
    "eot_tokens": idle("an answer is learnt with its end, as the chat template writes it"),
    "micro_batch_size": hugging_face.micro_batch,
    "batch_size": _batch,
    "eval_batch_size": to("stage.per_device_eval_batch_size"),
    "num_epochs": to("stage.num_train_epochs"),
    "optimizer": words("stage.optim", hugging_face.OPTIMISERS, "the study trains with adamw_torch_fused"),
    "lr_scheduler": _scheduler,
    "cosine_min_lr_ratio": _floor,
    "cosine_constant_lr_ratio": cannot("a schedule that falls and stays is warmup_stable_decay, with decay_steps"),
    "lr_groups": cannot("rates are per role: learning_rates: {vision_tower: 1e-5}"),
    "embedding_lr": cannot("rates are per role, and embeddings belong to the language model"),
    "embedding_lr_scale": cannot("rates are per role, and embeddings belong to the language model"),
    "noisy_embedding_alpha": to("stage.neftune_noise_alpha"),
    "gradient_checkpointing": _checkpointing,
    "evals_per_epoch": _per_epoch("evals", "stage.eval_on_epoch_end"),
    "saves_per_epoch": _per_epoch("saves", "stage.save_on_epoch_end"),
    "eval_steps": lambda value, _view: {
        "stage.eval_steps": hugging_face.counted(value),
        "stage.eval_on_epoch_end": False,
    },
    "eval_strategy": _evaluations,
    "save_steps": _saving,
    "early_stopping_patience": hugging_face.patience,
    "use_wandb": _tracker("wandb"),
    "use_tensorboard": _tracker("tensorboard"),
    "use_trackio": _tracker("trackio"),
    "use_mlflow": _tracker("mlflow"),
    "use_comet": _tracker("comet"),
    "special_tokens": _special_tokens,
    "tokens": cannot(_TOKENS),
    "added_tokens_overrides": cannot(_TOKENS),
    "fix_untrained_tokens": cannot(_TOKENS),
    "resize_token_embeddings_to_32x": cannot(_TOKENS),
    "peft_trainable_token_indices": cannot(_TOKENS),
    "plugins": _plugins,
    "ray_num_workers": idle("told with the number of GPUs"),
    "streaming": cannot("data are prepared before the first step; `limit:` of a data set takes a part"),
    "sequence_parallel_degree": cannot(_CUT, unless=(1, None)),
    "context_parallel_size": cannot(_CUT, unless=(1, None)),
    "tensor_parallel_size": cannot(_CUT, unless=(1, None)),
    "dp_shard_size": cannot("ranks are cut by engine: fsdp2, with fsdp2: {within_node: true} for copies per host"),
    "dp_replicate_size": cannot("ranks are cut by engine: fsdp2, with fsdp2: {within_node: true} for copies per host"),
    "qat": cannot("weights in few bits are a frozen base under an adapter: quantization"),
    "quantization": cannot("weights in few bits are a frozen base under an adapter: quantization"),
    "fp8": cannot("weights and activations in 8 bits are not here; use bf16"),
    "reinit_weights": cannot("random weights are `architecture:` and `config:` of the model"),
    "scaling_softmax": cannot("attention is the model's own"),
    "quantize_moe_experts": cannot("experts in few bits are not here"),
    "use_eaft": cannot(_LOSS),
    "image_size": cannot("images are cut by the model's own processor: model.image_processor"),
    "image_resize_algorithm": cannot("images are cut by the model's own processor: model.image_processor"),
    "role_boundaries": cannot("turns are told by the chat template"),
    "rope_scaling": cannot("a longer context is the model's own configuration; give a model that has it"),
    "model_quantization_config": cannot("only bitsandbytes is here; give the model that is not quantised"),
    "dataset_shard_num": cannot("`limit:` of a data set takes a part"),
    "rl": idle("told above"),
    "float32": switch({"model.dtype": "float32"}),
    "dataset_shard_idx": cannot("`limit:` of a data set takes a part"),
    "max_packed_sequence_len": cannot("rows of packs have the length of samples: sequence_len"),
    "peft_layer_replication": cannot(_LAYERS),
    "peft_ensure_weight_tying": cannot("tied weights of a model stay tied; an adapter on both is not here"),
    "processor_kwargs": cannot("options of the image processor are model.image_processor"),
    "s2_attention": cannot("attention is the model's own"),
    "shrink_embeddings": cannot(_TOKENS),
    "use_onebitllms": cannot("only bitsandbytes in 4 or 8 bits is here"),
}

FAMILIES: tuple[tuple[str, Rule], ...] = (
    *(
        (start, idle("is for another tracker"))
        for start in ("use_swanlab", "swanlab_", "mlflow_", "comet_", "trackio_", "otel_", "use_otel", "hf_mlflow")
    ),
    *(
        (start, idle("is for preferences and rewards"))
        for start in ("dpo_", "kto_", "orpo_", "simpo_", "cpo_", "rl_", "trl")
    ),
    *((start, idle("is for a page of its own; `tunestudy serve`")) for start in ("gradio_",)),
    *((start, idle("is for generating")) for start in ("generation_", "vllm", "num_generation")),
    *(
        (start, idle("belongs to an optimiser that is not here"))
        for start in ("dion_", "qgalore_", "lisa_", "adam_epsilon2")
    ),
    *((start, cannot("a schedule with restarts is not here")) for start in ("jagged_", "lr_div", "lr_quadratic")),
    ("expert_parallel", cannot(_CUT)),
    ("adam_beta3", idle("belongs to an optimiser that is not here")),
    ("pose_", cannot("positions are the model's own")),
    ("use_pose", cannot("positions are the model's own")),
    ("liger_", idle("the loss is computed in pieces anyway")),
    ("cut_cross", idle("the loss is computed in pieces anyway")),
    ("profiler_", idle("times are in the logs of every job")),
    ("include_tk", idle("logs are of one form, under results")),
    ("relora_", idle("belongs to relora")),
    ("pretrain", cannot("data are prepared before the first step; use packing: true")),
    ("torchdistx", idle("belongs to an optimiser that is not here")),
)


def _notes(view: View) -> list[str]:
    if "warmup_ratio" in view.given or "warmup_steps" in view.given:
        return []
    return ["stages.tune.warmup_steps: axolotl's default is the same share, but at most 100 steps"]


def _has_adapter(view: View) -> bool:
    return view["adapter"] in ("lora", "qlora")


PROGRAM = Program(
    name="axolotl",
    title="axolotl",
    source="https://github.com/axolotl-ai-cloud/axolotl",
    rules=RULES,
    families=FAMILIES,
    defaults={
        "sequence_len": 512,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": _accumulation,
        "num_epochs": 1,
        "optimizer": "adamw_torch_fused",
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.03,
        "lora_dropout": 0.0,
        "seed": 42,
        "save_strategy": lambda view: "steps" if view.given.get("save_steps") else "epoch",
        "save_total_limit": 4,
        "bf16": lambda view: False if view.given.get("fp16") or view.given.get("float16") else "auto",
    },
    notes=_notes,
    refusal=_refusal,
    has_adapter=_has_adapter,
    marks=frozenset({"base_model", "adapter", "datasets", "lora_r", "optimizer"}),
)

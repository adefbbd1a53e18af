"""Keys of Hugging Face's `TrainingArguments`, which LLaMA-Factory, ms-swift and TRL share.

Source: transformers 5, training_args.py; older names as of transformers 4.
"""

from typing import Any, get_args

from tunestudy.config.stage import TrainStage
from tunestudy.study.importing.engines import DEEPSPEED, FSDP
from tunestudy.study.importing.rules import (
    ImpossibleError,
    NotNeededError,
    Rule,
    View,
    cannot,
    idle,
    listed,
    of_adapter,
    plain,
    switch,
    to,
    truth,
    words,
)

OPTIMISERS = {
    **{name: name for name in get_args(TrainStage.model_fields["optim"].annotation)},
    "adamw_hf": "adamw_torch",
    "adamw": "adamw_torch_fused",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}
SCHEDULES = {name: name for name in get_args(TrainStage.model_fields["lr_scheduler_type"].annotation)}


def micro_batch(value: Any, view: View) -> dict[str, Any]:
    size = _whole(value)
    return {"stage.per_device_train_batch_size": size, "stage.effective_batch_size": size * _others(view)}


def accumulation(value: Any, view: View) -> dict[str, Any]:
    key = "micro_batch_size" if view.program.name == "axolotl" else "per_device_train_batch_size"
    return {"stage.effective_batch_size": _whole(view[key]) * _whole(value) * view.gpus}


def _others(view: View) -> int:
    return _whole(view["gradient_accumulation_steps"] or 1) * view.gpus


def _whole(value: Any) -> int:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number) or number < 1:
        raise ImpossibleError(f"must be a whole number from 1, got {value}")
    return int(number)


def steps(value: Any, _view: View) -> dict[str, Any]:
    """`max_steps`, which is -1 for none."""
    if isinstance(plain(value), int | float) and plain(value) <= 0:
        raise NotNeededError("-1 means that epochs count")
    return {"stage.max_steps": _whole(value)}


def warmup_steps(value: Any, view: View) -> dict[str, Any]:
    if not plain(value) and view["warmup_ratio"]:
        raise NotNeededError("warmup_ratio counts")
    return {"stage.warmup_steps": plain(value)}


def warmup_ratio(value: Any, view: View) -> dict[str, Any]:
    share = plain(value)
    if view.given.get("warmup_steps"):
        raise NotNeededError("warmup_steps counts")
    if not isinstance(share, int | float) or not 0 <= share < 1:
        raise ImpossibleError(f"must be a share of all steps from 0 and below 1, got {value}; give warmup_steps")
    return {"stage.warmup_steps": share}


def schedule_options(value: Any, view: View) -> dict[str, Any]:
    """`lr_scheduler_kwargs`: a mapping, or JSON."""
    if not isinstance(value, dict):
        raise ImpossibleError("must be a mapping, such as {min_lr_rate: 0.1}")
    written: dict[str, Any] = {}
    for key, amount in value.items():
        if key == "min_lr":
            written["stage.min_lr_rate"] = floor_share(plain(amount), view["learning_rate"])
        elif key in ("min_lr_rate", "min_lr_ratio"):
            written["stage.min_lr_rate"] = plain(amount)
        elif key == "num_decay_steps":
            written["stage.decay_steps"] = plain(amount)
        elif (key, amount) not in (("num_cycles", 0.5), ("power", 1), ("power", 1.0)):
            raise ImpossibleError(f"{key} has no counterpart; min_lr, min_lr_rate and num_decay_steps have")
    return written


def floor_share(lowest: Any, peak: Any) -> float:
    """A floor given as a rate, as a share of the peak."""
    rates = (lowest, plain(peak))
    if not all(isinstance(rate, int | float) for rate in rates) or not rates[1] > 0:
        raise ImpossibleError("needs a learning_rate of which it is a share")
    return float(f"{rates[0] / rates[1]:.12g}")


def evaluations(value: Any, _view: View) -> dict[str, Any]:
    if value in ("no", False):
        return {"stage.eval_on_epoch_end": False}
    if value in ("steps", "epoch"):
        return {"stage.eval_on_epoch_end": value == "epoch"}
    raise ImpossibleError(f"must be no, steps or epoch, got {value}")


def evaluation_steps(value: Any, view: View) -> dict[str, Any]:
    if view["eval_strategy"] != "steps" and view["evaluation_strategy"] != "steps":
        raise NotNeededError(f"eval_strategy is {view['eval_strategy']}")
    return {"stage.eval_steps": counted(value)}


def counted(value: Any) -> int:
    """A number of steps. A share of all steps cannot be told before the data are counted."""
    number = plain(value)
    if isinstance(number, float) and 0 < number < 1:
        raise ImpossibleError("is a share of all steps, and tunestudy counts steps: `plan` says how many there are")
    return _whole(number)


def saving(value: Any, view: View) -> dict[str, Any]:
    if value in ("no", False):
        return {"stage.save_on_epoch_end": False, "stage.save_steps": None, "stage.full_save_steps": None}
    if value == "epoch":
        mode = "lite" if view.on("save_only_model") else "full"
        ends = {"stage.save_on_epoch_end": True, "stage.save_steps": None, "stage.full_save_steps": None}
        return {**ends, "stage.checkpoint_mode": mode}
    if value == "steps":
        return {"stage.save_on_epoch_end": False}
    raise ImpossibleError(f"there is no {value} here; the best checkpoints are kept by save_best_k")


def saving_steps(value: Any, view: View) -> dict[str, Any]:
    if view["save_strategy"] != "steps":
        raise NotNeededError(f"save_strategy is {view['save_strategy']}")
    number = counted(value)
    return {"stage.save_steps": number, "stage.full_save_steps": None if view.on("save_only_model") else number}


def weights_only(value: Any, view: View) -> dict[str, Any]:
    if truth(value):
        epochs = view["save_strategy"] == "epoch"
        return {"stage.checkpoint_mode": "lite"} if epochs else {"stage.full_save_steps": None}
    raise NotNeededError("full checkpoints are written anyway")


def trackers(value: Any, _view: View) -> dict[str, Any]:
    wanted = [one for one in listed(value) if one not in ("none", None)]
    if not wanted:
        raise NotNeededError("no tracker")
    known = _literals(TrainStage.model_fields["report_to"].annotation)
    strange = [one for one in wanted if one not in known]
    words = f"{', '.join(strange)}: not among the trackers here, {', '.join(sorted(known))}"
    if len(strange) == len(wanted):
        raise ImpossibleError(words)
    carried = {"stage.report_to": [one for one in wanted if one in known]}
    return {**carried, "impossible": words} if strange else carried


def _literals(annotation: Any) -> set[str]:
    inner = get_args(annotation)
    return {one for one in inner if isinstance(one, str)}.union(*(_literals(one) for one in inner if get_args(one)))


def resumption(value: Any, _view: View) -> dict[str, Any]:
    if truth(value) is not None:
        raise NotNeededError("`run` goes on by itself")
    raise ImpossibleError(
        "a checkpoint of another program cannot be gone on from; its weights can: give them as the model"
    )


def if_known(key: str, cure: str) -> Rule:
    """A key of stages that this version may have or not."""

    def rule(value: Any, _view: View) -> dict[str, Any]:
        if value in (None, False, "", "false"):
            raise NotNeededError("asks for nothing")
        if key not in TrainStage.model_fields:
            raise ImpossibleError(cure)
        return {f"stage.{key}": value}

    return rule


def patience(value: Any, _view: View) -> dict[str, Any]:
    return {"stage.early_stopping_patience": _whole(value)}


_BENCHMARK = "what is generated and scored is a benchmark: an entry of `benchmarks:`"
_SPEED = "changes no result; tunestudy chooses"
_LOGS = "logs are of one form, under results"
_HUB = "publish the result when the study is done: `hf upload REPOSITORY results/…/model`"

IDLE = {
    "results go to `--results DIR`": "output_dir overwrite_output_dir logging_dir save_on_each_node run_name project",
    "`run` trains, evaluates and resumes": "do_train do_eval ignore_data_skip enable_jit_checkpoint resume_only_model "
    "restore_callback_states_from_checkpoint",
    _SPEED: "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_in_order "
    "dataloader_multiprocessing_context torch_empty_cache_steps gradient_checkpointing_kwargs use_reentrant_gc "
    "activation_checkpointing_kwargs eval_accumulation_steps eval_do_concat_batches eval_use_gather_object use_cache "
    "low_cpu_mem_usage ddp_bucket_cap_mb ddp_broadcast_buffers ddp_find_unused_parameters ddp_static_graph ddp_backend "
    "tf32 accelerator_config torch_compile_backend torch_compile_mode torch_compile_options auto_find_batch_size "
    "flash_attn attn_impl attn_implementation bf16_full_eval fp16_full_eval gradient_checkpointing_enable",
    "the loss is computed in pieces anyway": "use_liger_kernel liger_kernel_config enable_liger_kernel",
    "a rank that hangs is told by resources.timeout_s": "ddp_timeout",
    "ranks are started by `run`": "local_rank nproc_per_node num_processes num_machines machine_rank main_process_port",
    _LOGS: "logging_first_step log_level log_level_replica log_on_each_node logging_nan_inf_filter disable_tqdm debug "
    "include_num_input_tokens_seen include_tokens_per_second skip_memory_metrics plot_loss log_completions",
    "columns are chosen by the format": "remove_unused_columns label_names length_column_name",
    "the loss is over all tokens of a step, on every rank": "average_tokens_across_devices",
    "losses are what evaluation computes": "prediction_loss_only include_for_metrics batch_eval_metrics",
    "follows from the metric": "greater_is_better",
    "every run is deterministic as far as its kernels are": "full_determinism",
    "files are safetensors, cut by the library": "save_safetensors safe_serialization max_shard_size",
}
"""Reason → keys that are not needed for it."""

RULES: dict[str, Rule] = {
    **{key: idle(reason) for reason, keys in IDLE.items() for key in keys.split()},
    **{
        key: to(f"stage.{key}")
        for key in [
            "num_train_epochs",
            "learning_rate",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
            "label_smoothing_factor",
            "neftune_noise_alpha",
            "dataloader_num_workers",
            "per_device_eval_batch_size",
            "save_total_limit",
            "data_seed",
        ]
    },
    **{
        key: switch({f"stage.{key}": True}, {f"stage.{key}": False})
        for key in [
            "bf16",
            "fp16",
            "torch_compile",
            "load_best_model_at_end",
            "eval_on_start",
            "activation_checkpointing",
        ]
    },
    "per_device_train_batch_size": micro_batch,
    "gradient_accumulation_steps": accumulation,
    "max_steps": steps,
    "warmup_steps": warmup_steps,
    "warmup_ratio": warmup_ratio,
    "lr_scheduler_type": words("stage.lr_scheduler_type", SCHEDULES),
    "lr_scheduler_kwargs": schedule_options,
    "optim": words("stage.optim", OPTIMISERS),
    "optim_args": cannot(
        "options of an optimiser are keys of their own: adam_beta1, adam_beta2, adam_epsilon, momentum"
    ),
    "optim_target_modules": cannot("is for optimisers that project gradients; there is none here"),
    "eval_strategy": evaluations,
    "evaluation_strategy": evaluations,
    "eval_steps": evaluation_steps,
    "eval_delay": cannot("evaluation begins with the first step"),
    "save_strategy": saving,
    "save_steps": saving_steps,
    "save_only_model": weights_only,
    "logging_steps": lambda value, _view: {"stage.logging_steps": counted(value)},
    "logging_strategy": cannot("what is logged is counted in steps: logging_steps", unless=("steps",)),
    "metric_for_best_model": words(
        "stage.metric_for_best_model", dict.fromkeys(("loss", "eval_loss"), "eval_loss"), _BENCHMARK
    ),
    "report_to": trackers,
    "seed": lambda value, _view: {"study.seeds": [plain(value)]},
    "gradient_checkpointing": switch(
        {"stage.activation_checkpointing": True}, {"stage.activation_checkpointing": False}
    ),
    "group_by_length": switch({"stage.order": "length_grouped"}),
    "train_sampling_strategy": words(
        "stage.order", {"random": "shuffle", "sequential": "sequential", "group_by_length": "length_grouped"}
    ),
    "resume_from_checkpoint": resumption,
    "do_predict": cannot(_BENCHMARK),
    "predict_with_generate": cannot(_BENCHMARK),
    "dataloader_drop_last": cannot("an epoch uses every sample; its last step may be smaller"),
    "use_cpu": cannot("GPUs are used where there are some; hide them: CUDA_VISIBLE_DEVICES= tunestudy run …"),
    "parallelism_config": cannot("models are cut by engine: fsdp2 or deepspeed; tensors and sequences are not"),
    "trust_remote_code": switch({"model.trust_remote_code": True}, {"model.trust_remote_code": False}),
    **{
        key: if_known(key, _HUB)
        for key in [
            "push_to_hub",
            "hub_model_id",
            "hub_strategy",
            "hub_private_repo",
            "hub_revision",
            "hub_always_push",
        ]
    },
    **{key: idle("only with a tracker of that name") for key in ("trackio_space_id", "trackio_bucket_id")},
    "trackio_static_space_id": idle("only with a tracker of that name"),
    "use_rslora": of_adapter(switch({"adapter.use_rslora": True}, {"adapter.use_rslora": False})),
    "use_dora": of_adapter(switch({"adapter.type": "dora"})),
    "deepspeed": DEEPSPEED,
    "fsdp": FSDP,
    "fsdp_config": idle("told with fsdp"),
}

DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 3,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "logging_steps": 500,
    "eval_strategy": "no",
    "eval_steps": lambda view: view["logging_steps"],
    "save_strategy": "steps",
    "save_steps": 500,
    "seed": 42,
}
"""Those that differ from tunestudy's, or that other keys need."""

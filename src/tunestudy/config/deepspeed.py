"""DeepSpeed's own settings in a study: every key is passed on, held against the study, without effect, or refused.

Names are those of DeepSpeed's configuration (https://www.deepspeed.ai/docs/config-json/, read for version 0.19). The
study stays the one place that says how training goes: where a DeepSpeed key means the same as one of the study, both
must agree. `auto`, as Hugging Face's integration writes it, always does.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal

from tunestudy.config.stage import TrainStage

Kind = Literal["passed on", "held against the study", "without effect", "refused"]
Section = dict[str, Any]
Values = type | UnionType | tuple[object, ...]

INSTALL = "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed"
AUTO = "auto"
NUMBER = int | float
DEFAULT_STAGE = 2


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of DeepSpeed's configuration, sections joined by dots."""

    name: str
    kind: Kind
    words: str
    """What it does, which key of the study it must agree with, or why it is refused."""
    values: Values = object
    """Types or choices that it may have."""

    def wrong(self, value: object) -> str | None:
        """What is wrong with a value, as far as types tell."""
        if isinstance(self.values, tuple):
            return None if value in self.values else f"must be one of {', '.join(map(str, self.values))}"
        if isinstance(value, bool) and self.values is not bool and self.values is not object:
            return "must be a number or a name, not true or false"
        return None if isinstance(value, self.values) else f"must be of type {_words(self.values)}"


def mistakes(section: Mapping[str, Any], stage: TrainStage) -> Iterator[str]:
    """Everything wrong with a `deepspeed` section, by key."""
    flat = dict(flattened(section))
    if not isinstance(section.get("zero_optimization", {}), Mapping):
        yield "zero_optimization: must be a mapping of keys"
        return
    for name, value in flat.items():
        key = KEYS.get(name)
        if key is None:
            near = get_close_matches(name, KEYS, n=1)
            yield f"{name}: DeepSpeed has no such key" + (f"; did you mean {near[0]}?" if near else "")
        elif key.kind == "refused":
            if not is_off(value):
                yield f"{name}: {key.words}"
        elif value != AUTO and (wrong := key.wrong(value)):
            yield f"{name}: {wrong}"
        elif value != AUTO and key.kind == "held against the study":
            field, expected = _of_study(name, stage)
            if (tuple(value) if isinstance(value, list) else value) != expected:
                yield f"{name}: {value} contradicts {field} of the study, {expected}"
    if "zero_optimization" in section and flat.get("zero_optimization.stage", AUTO) == AUTO:
        yield "zero_optimization.stage: give 1, 2 or 3"


def flattened(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Keys joined by dots, down to those that the table knows or that hold no section."""
    for key, value in section.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and name not in KEYS:
            yield from flattened(value, f"{name}.")
        else:
            yield name, value


def passed_on(section: Mapping[str, Any]) -> Section:
    """The part of a section that DeepSpeed itself reads."""
    of_deepspeed = {name for name, key in KEYS.items() if key.kind == "passed on"}
    kept = nested((name, value) for name, value in flattened(section) if value != AUTO and name in of_deepspeed)
    kept.setdefault("zero_optimization", {})["stage"] = zero_stage(section)
    return kept


def nested(flat: Iterable[tuple[str, Any]]) -> Section:
    """Sections again, of keys joined by dots."""
    made: Section = {}
    for name, value in flat:
        *outer, last = name.split(".")
        place = made
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return made


def zero_stage(section: Mapping[str, Any]) -> int:
    """1 (optimiser's state cut), 2 (gradients too) or 3 (weights too)."""
    zero = section.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, Mapping) else None
    return stage if stage in (1, 2, 3) else DEFAULT_STAGE


def is_off(value: object) -> bool:
    """Whether a section or switch asks for nothing."""
    return value in (False, None, {}) or (isinstance(value, Mapping) and value.get("enabled") is False)


def _of_study(name: str, stage: TrainStage) -> tuple[str, Any]:
    """The study's key that means the same, and its value."""
    match name:
        case "train_batch_size":
            return "effective_batch_size", stage.effective_batch_size
        case "train_micro_batch_size_per_gpu":
            return "per_device_train_batch_size", stage.per_device_train_batch_size
        case "gradient_accumulation_steps":
            return "gradient_accumulation_steps", stage.gradient_accumulation_steps
        case "gradient_clipping":
            return "max_grad_norm", stage.max_grad_norm or 0.0
        case "bf16.enabled":
            return "bf16", stage.bf16
        case "fp16.enabled":
            return "fp16", stage.fp16
        case "optimizer.type":
            return "optim", "AdamW" if stage.optim.startswith("adamw_torch") else stage.optim.upper()
        case "optimizer.params.lr":
            return "learning_rate", stage.learning_rate
        case "optimizer.params.betas":
            return "adam_beta1 and adam_beta2", (stage.adam_beta1, stage.adam_beta2)
        case "optimizer.params.eps":
            return "adam_epsilon", stage.adam_epsilon
        case "optimizer.params.weight_decay":
            return "weight_decay", stage.weight_decay
    raise KeyError(name)


def _words(values: type | UnionType) -> str:
    return getattr(values, "__name__", str(values))


_OF_ZERO: tuple[tuple[str, Values, str], ...] = (
    ("stage", (1, 2, 3), "1: the optimiser's state is cut, 2: gradients too, 3: weights too; 0 would be `ddp`"),
    ("contiguous_gradients", bool, "gradients in one buffer"),
    ("reduce_scatter", bool, "reduce-scatter instead of all-reduce"),
    ("reduce_bucket_size", NUMBER, "numbers in one reduction"),
    ("use_multi_rank_bucket_allreduce", bool, "one all-reduce for buckets of several ranks"),
    ("allgather_partitions", bool, "all-gather instead of broadcasts after the step"),
    ("allgather_bucket_size", NUMBER, "numbers in one gather"),
    ("overlap_comm", bool, "reduce while the backward pass goes on"),
    ("round_robin_gradients", bool, "spread copies to the host over ranks"),
    ("ignore_unused_parameters", (True,), "tensors that no sample uses are told by tunestudy"),
    ("sub_group_size", NUMBER, "stage 3: numbers in one optimiser call"),
    ("stage3_prefetch_bucket_size", NUMBER, "stage 3: numbers gathered ahead"),
    ("stage3_param_persistence_threshold", NUMBER, "stage 3: smaller tensors stay whole"),
    ("stage3_model_persistence_threshold", NUMBER, "stage 3: as many numbers may stay whole"),
    ("stage3_max_live_parameters", NUMBER, "stage 3: numbers that may be whole at once"),
    ("stage3_max_reuse_distance", NUMBER, "stage 3: keep what is used again within as many numbers"),
    ("stage3_use_all_reduce_for_fetch_params", bool, "stage 3: gather by all-reduce"),
    ("stage3_allgather_sequential", bool, "stage 3: gather one tensor at a time"),
    ("memory_efficient_linear", bool, "stage 3: DeepSpeed's own linear product, which saves activations"),
    ("zero_hpz_partition_size", int, "stage 3: ranks of a host that hold a second cut of the weights"),
    ("offload_optimizer.device", ("cpu", "none"), "the optimiser's state in the host's memory"),
    ("offload_optimizer.pin_memory", bool, "in memory that the GPU reads directly"),
    ("offload_param.device", ("cpu", "none"), "stage 3: slices of weights in the host's memory"),
    ("offload_param.pin_memory", bool, "in memory that the GPU reads directly"),
    ("log_trace_cache_warnings", bool, "stage 3: tell when the order of modules changes"),
    ("enable_sanity_checks", bool, "stage 3: checks of its own"),
)
_OF_DEEPSPEED: tuple[tuple[str, Values, str], ...] = (
    ("communication_data_type", ("fp32",), "in which gradients travel: less would change the result"),
    ("disable_python_gc", bool, "no garbage collection while a step runs"),
    ("dump_state", bool, "print DeepSpeed's state at the start"),
    ("steps_per_print", int, "steps between DeepSpeed's own lines"),
    ("wall_clock_breakdown", bool, "time forward, backward and step"),
    ("memory_breakdown", bool, "tell memory at every part of a step"),
    ("comms_logger", Mapping, "log every collective"),
    ("timers", Mapping, "how timers wait for the GPU"),
    ("log_level", ("debug", "info", "warning", "error"), "of DeepSpeed's own log; here `error` unless given"),
)
_OF_THE_STUDY: tuple[tuple[str, Values, str], ...] = (
    ("train_batch_size", int, "`effective_batch_size`"),
    ("train_micro_batch_size_per_gpu", int, "`per_device_train_batch_size`"),
    ("gradient_accumulation_steps", int, "`gradient_accumulation_steps`"),
    ("gradient_clipping", NUMBER, "`max_grad_norm` (null is 0.0)"),
    ("bf16.enabled", bool, "`bf16`: autocast over float32 weights; DeepSpeed's own bf16 mode stays off"),
    ("fp16.enabled", bool, "`fp16`, which this engine refuses"),
    ("optimizer.type", str, "`optim`: AdamW or SGD"),
    ("optimizer.params.lr", NUMBER, "`learning_rate`"),
    ("optimizer.params.betas", list | tuple, "`adam_beta1`, `adam_beta2`"),
    ("optimizer.params.eps", NUMBER, "`adam_epsilon`"),
    ("optimizer.params.weight_decay", NUMBER, "`weight_decay`"),
)

_EXPERTS = "cuts a mixture of experts by its own layers, and changes what is computed"
_DATA = "data and their order are the study's"
_DTYPES = "dtypes are the study's: `dtype` of the model, `bf16` of a stage"
_FILES = "checkpoints are tunestudy's own files, the same for every engine"
_GONE = "removed from DeepSpeed"
_PRECISION = "DeepSpeed's own half precision keeps a second copy of weights; use the study's bf16"
_QUANTISED = "rounds what travels between ranks: the result would depend on the number of ranks"
_TRACKERS = "logs are the study's: report_to"
_ZENFLOW = "updates part of the weights a step late: another optimiser than the study names"

_SCALER = "fp16 is off"
_WHOLE = "results are always gathered and written whole"
WITHOUT_EFFECT = {
    "aio": "is for NVMe",
    "disable_allgather": "DeepSpeed no longer reads it",
    "fp16.auto_cast": _SCALER,
    "fp16.consecutive_hysteresis": _SCALER,
    "fp16.fp16_master_weights_and_grads": _SCALER,
    "fp16.hysteresis": _SCALER,
    "fp16.initial_scale_power": _SCALER,
    "fp16.loss_scale": _SCALER,
    "fp16.loss_scale_window": _SCALER,
    "fp16.min_loss_scale": _SCALER,
    "vocabulary_size": "only warns about alignment",
    "zero_allow_untested_optimizer": "always on: torch's AdamW and SGD are tested here",
    "zero_force_ds_cpu_optimizer": "always off: the optimiser is torch's on every device",
    "zero_optimization.offload_optimizer.buffer_count": "is for NVMe",
    "zero_optimization.offload_optimizer.fast_init": "is for NVMe",
    "zero_optimization.offload_optimizer.pipeline_read": "is for NVMe",
    "zero_optimization.offload_optimizer.pipeline_write": "is for NVMe",
    "zero_optimization.offload_param.buffer_count": "is for NVMe",
    "zero_optimization.offload_param.buffer_size": "is for NVMe",
    "zero_optimization.offload_param.max_in_cpu": "is for NVMe",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": _WHOLE,
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": _WHOLE,
}

REFUSED = {
    "activation_checkpointing": "is the study's: activation_checkpointing",
    "autotuning": "starts trainings of its own outside of the study",
    "bf16.bf16_master_weights_and_grads": _PRECISION,
    "bf16.bf16_optimizer_states": _PRECISION,
    "bf16.check_grad_overflow": _PRECISION,
    "bf16.immediate_grad_update": _PRECISION,
    "check_overflow": _PRECISION,
    "checkpoint": _FILES,
    "checkpoint_engine": _FILES,
    "comet": _TRACKERS,
    "compile": "is the study's: torch_compile",
    "compression_training": "prunes and quantises while training; sparsity is the study's: adapter type sora or sdora",
    "csv_monitor": _TRACKERS,
    "curriculum_learning": f"{_DATA}; {_GONE}",
    "data_efficiency": _DATA,
    "data_types": _DTYPES,
    "dataloader_drop_last": _DATA,
    "datastates_ckpt": _FILES,
    "eigenvalue": _GONE,
    "elasticity": f"the number of ranks is the study's; {_GONE}",
    "expert_parallel": _EXPERTS,
    "flops_profiler": "result.json holds flops_per_token; DeepSpeed's profiler would be timed as training",
    "gradient_allreduce_op": "how sums are formed is tunestudy's: it divides by target tokens, not by ranks",
    "graph_harvesting": _GONE,
    "hybrid_engine": "is for generating while training",
    "managed_gradient_accumulation": "tunestudy says which micro-batch is a step's last",
    "optimizer.legacy_fusion": "the optimiser is torch's",
    "optimizer.params.adam_w_mode": "the optimiser is torch's",
    "optimizer.params.torch_adam": "the optimiser is torch's",
    "pipeline": "cuts the model into stages that must be written for it",
    "prescale_gradients": "DeepSpeed scatters gradients, and then does not scale them before",
    "gradient_predivide_factor": "DeepSpeed scatters gradients, and then does not scale them before",
    "progressive_layer_drop": f"leaves layers out at random; {_GONE}",
    "quantize_training": _QUANTISED,
    "scheduler": "learning rates are the study's: lr_scheduler_type, warmup_steps; DeepSpeed's warm-up is logarithmic",
    "seq_parallel_communication_data_type": "sequences are not cut",
    "sequence_parallel_size": "sequences are not cut",
    "sparse_attention": _GONE,
    "sparse_gradients": "embeddings' gradients are dense",
    "tensor_parallel": "cuts matrices by rules that must be written for the model",
    "tensorboard": _TRACKERS,
    "torch_autocast": "is the study's: bf16",
    "use_data_before_expert_parallelism": _EXPERTS,
    "wandb": _TRACKERS,
    "weight_quantization": "is for inference",
    "zero_optimization.compute_grad_norm": "the norm is clipped by and logged",
    "zero_optimization.cpu_offload": "old spelling; use offload_optimizer: {device: cpu}",
    "zero_optimization.cpu_offload_param": "old spelling; use offload_param: {device: cpu}",
    "zero_optimization.cpu_offload_use_pin_memory": "old spelling; use offload_optimizer: {pin_memory: true}",
    "zero_optimization.elastic_checkpoint": _FILES,
    "zero_optimization.gather_16bit_weights_on_model_save": "the key is stage3_gather_16bit_weights_on_model_save",
    "zero_optimization.leaf_module": "the model's blocks are the units",
    "zero_optimization.legacy_stage1": _GONE,
    "zero_optimization.load_from_fp32_weights": _FILES,
    "zero_optimization.mics_shard_size": f"{_GONE}; use zero_hpz_partition_size",
    "zero_optimization.mics_hierarchical_params_gather": f"{_GONE}; use zero_hpz_partition_size",
    "zero_optimization.module_granularity_threshold": "the model's blocks are the units",
    "zero_optimization.stage3_module_granularity_threshold": "the model's blocks are the units",
    "zero_optimization.offload_optimizer.cpuadam_cores_perc": "the optimiser is torch's on every device",
    "zero_optimization.offload_optimizer.nvme_path": "checkpoints read the optimiser's state from memory",
    "zero_optimization.offload_optimizer.ratio": "splits the optimiser between devices that round differently",
    "zero_optimization.offload_optimizer.super_offload": "the optimiser is torch's on every device",
    "zero_optimization.offload_param.nvme_path": "checkpoints read weights from memory",
    "zero_optimization.override_module_apply": "models are built before DeepSpeed sees them",
    "zero_optimization.parameter_alignment": "slices are found by number, without gaps",
    "zero_optimization.pipeline_loading_checkpoint": _FILES,
    "zero_optimization.save_muon_momentum_buffer_in_memory": "the optimiser is torch's",
    "zero_optimization.zenflow": _ZENFLOW,
    "zero_optimization.zero_quantized_gradients": _QUANTISED,
    "zero_optimization.zero_quantized_nontrainable_weights": _QUANTISED,
    "zero_optimization.zero_quantized_weights": _QUANTISED,
    "zero_optimization.zeropp_loco_param": f"{_QUANTISED}; {_GONE}",
}


def _keys() -> Iterator[Key]:
    for name, values, words in _OF_ZERO:
        yield Key(name=f"zero_optimization.{name}", kind="passed on", values=values, words=words)
    for name, values, words in _OF_DEEPSPEED:
        yield Key(name=name, kind="passed on", values=values, words=words)
    for name, values, words in _OF_THE_STUDY:
        yield Key(name=name, kind="held against the study", values=values, words=words)
    for name, words in WITHOUT_EFFECT.items():
        yield Key(name=name, kind="without effect", words=words)
    for name, words in REFUSED.items():
        yield Key(name=name, kind="refused", words=words)


KEYS: dict[str, Key] = {key.name: key for key in _keys()}

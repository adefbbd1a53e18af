"""Spellings of LLaMA-Factory, ms-swift, axolotl and older Hugging Face releases, each accepted with a printed line."""

from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.study.merge_aliases import MERGE, MERGE_INPUT, Convert, elsewhere, for_each_model, rename
from tunestudy.study.source import KeyPath, Source, dotted
from tunestudy.study.surface import KEYS, Level, mappings


def translate(source: Source) -> list[str]:
    """Replace foreign spellings in `source.values` in place; returns one line of text for each.

    Raises StudyError where our spelling stands beside the foreign one, or the value has no counterpart.
    """
    printed: list[str] = []
    for level, path, mapping in list(mappings(source.values)):
        if level == "stage" and isinstance(mapping.get("adapter"), str):
            printed.append(_adapter_word(source, path, mapping))
        if level == "merge":
            printed += for_each_model(source, path, mapping)
        known = [key for key in mapping if key in ALIASES.get(level, {})]
        foreign = [key for key in known if (level, str(mapping.get("type")), key) not in OWN]
        printed += [_translate(source, level, path, mapping, alias) for alias in foreign]
        if level == "stage":
            printed += _freezing(source, path, mapping)
        if level == "stage" and str(mapping.get("optim")) in _OPTIMISERS:
            printed.append(_optimiser(source, path, mapping))
    return printed


def known_aliases(level: Level) -> frozenset[str]:
    """Foreign spellings that are understood at `level`."""
    return frozenset(ALIASES.get(level, {})) | (frozenset(_FREEZE) if level == "stage" else frozenset())


def _translate(source: Source, level: Level, path: KeyPath, mapping: dict[str, Any], alias: str) -> str:
    here = (*path, alias)
    try:
        ours = ALIASES[level][alias](mapping[alias])
    except ValueError as error:
        raise StudyError(source.place(here), str(error)) from None
    old = mapping.pop(alias)
    for key, value in ours.items():
        _put(source, path, mapping, key, value, here)
    meaning = ", ".join(f"{key}: {_shown(value)}" for key, value in ours.items()) or "nothing, it is the default"
    return f"{source.place(here)}: {_shown(old)} → {meaning}"


def _adapter_word(source: Source, path: KeyPath, stage: dict[str, Any]) -> str:
    """`adapter: lora`, as axolotl writes it; its `qlora` is a LoRA on a base in 4 bits."""
    word = stage["adapter"]
    kind = "lora" if word == "qlora" else word
    stage["adapter"] = None if word in ("none", "full") else {"type": kind}
    meaning = "null" if stage["adapter"] is None else f"{{type: {kind}}}"
    if word == "qlora" and not any(key in stage for key in _FEW_BITS):
        stage["quantization"] = {"load_in_4bit": True}
        source.moved((*path, "adapter"), (*path, "quantization"))
        meaning += ", quantization: {load_in_4bit: true}"
    return f"{source.place((*path, 'adapter'))}: {word} → {meaning}"


def _optimiser(source: Source, path: KeyPath, stage: dict[str, Any]) -> str:
    """Names that transformers gives to optimisers of the list in `config.stage`."""
    word = stage["optim"]
    stage["optim"] = _OPTIMISERS[word]
    return f"{source.place((*path, 'optim'))}: {word} → {_OPTIMISERS[word]}"


def _put(source: Source, path: KeyPath, mapping: dict[str, Any], key: str, value: Any, alias_path: KeyPath) -> None:
    *outer, last = key.split(".")
    for part in outer:
        if not isinstance(mapping.setdefault(part, {}), dict):
            raise StudyError(source.place(alias_path), f"belongs under `{part}:`, which is switched off here")
        mapping, path = mapping[part], (*path, part)
        source.moved(alias_path, path)
    if last in mapping and mapping[last] != value:
        raise StudyError(
            source.place(alias_path),
            f"means `{dotted((*path, last))}`, which line {source.line_of((*path, last))} sets to "
            f"{_shown(mapping[last])}; keep one of the two",
        )
    mapping[last] = value
    source.moved(alias_path, (*path, last))


def _freezing(source: Source, path: KeyPath, stage: dict[str, Any]) -> list[str]:
    """`freeze_vit: true` and its like say which roles stay; `train` says which move."""
    given = {key: stage[key] for key in _FREEZE if key in stage}
    if not given:
        return []
    first = (*path, next(iter(given)))
    if "train" in stage:
        raise StudyError(source.place(first), "`train` already says which roles move; keep one of the two")
    frozen = {_FREEZE[key]: bool(stage.pop(key)) for key in given}
    frozen.setdefault("language_model", bool(stage.get("adapter")))
    stage["train"] = [role for role in ("vision_tower", "projector", "language_model") if not frozen.get(role, True)]
    source.moved(first, (*path, "train"))
    written = ", ".join(f"{key}: {_shown(value)}" for key, value in given.items())
    return [f"{source.place(first)}: {written} → train: {_shown(stage['train'])}"]


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


def _warmup_share(value: Any) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"must be a share of all steps between 0 and 1, got {_shown(value)}")
    return {"warmup_steps": value}


def _cadence(epoch_key: str, steps_key: str) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if value is False or value == "no":
            return {epoch_key: False, steps_key: None}
        if value == "epoch":
            return {epoch_key: True, steps_key: None}
        if value == "steps":
            return {epoch_key: False}
        raise ValueError(f"must be no, steps or epoch, got {_shown(value)}")

    return convert


def _flag(when_true: dict[str, Any], when_false: dict[str, Any]) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, got {_shown(value)}")
        return when_true if value else when_false

    return convert


def _targets(key: str) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if value in ("all", "all-linear"):
            return {key: "all-linear"}
        if isinstance(value, str) and "," in value:
            return {key: [name.strip() for name in value.split(",")]}
        return {key: value}

    return convert


def _tuner(value: Any) -> dict[str, Any]:
    if value == "full":
        return {"adapter": None}
    if isinstance(value, str):
        return {"adapter.type": value}
    raise ValueError(f"must be full or the name of an adapter, got {_shown(value)}")


def _attention(value: Any) -> dict[str, Any]:
    names = {"fa2": "flash_attention_2", "flash_attn": "flash_attention_2", True: "flash_attention_2", False: "sdpa"}
    names |= {"auto": "sdpa", "disabled": "eager", "flex": "flex_attention"}
    return {"attn_implementation": names.get(value, value) if isinstance(value, str | bool) else value}


def _bits(value: Any) -> dict[str, Any]:
    if value in (4, 8) and not isinstance(value, bool):
        return {f"quantization.load_in_{value}bit": True}
    raise ValueError(f"must be 4 or 8, got {_shown(value)}")


def _method(value: Any) -> dict[str, Any]:
    if value in ("bitsandbytes", "bnb"):
        return {}
    raise ValueError(f"only bitsandbytes is supported, got {_shown(value)}")


def _compute_dtype(value: Any) -> dict[str, Any]:
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    name = str(value).removeprefix("torch.")
    return {"quantization.bnb_4bit_compute_dtype": names.get(name, name)}


def _adapter_start(key: str) -> Convert:
    def convert(value: Any) -> dict[str, Any]:
        if value is False:
            raise ValueError("an adapter that starts at random weights changes the model before it has learnt anything")
        if str(value).startswith("pissa_niter_"):
            raise ValueError(
                "begins at a random sketch, which PEFT would draw anew to load it; use pissa, the exact one"
            )
        return {key: "default" if value is True else value}

    return convert


def _renames(**keys: str) -> dict[str, Convert]:
    """`ours="theirs theirs"` → one conversion for each of their spellings; `__` in ours stands for a dot."""
    return {alias: rename(ours.replace("__", ".")) for ours, aliases in keys.items() for alias in aliases.split()}


_FREEZE = {
    "freeze_vision_tower": "vision_tower",
    "freeze_vit": "vision_tower",
    "freeze_multi_modal_projector": "projector",
    "freeze_aligner": "projector",
    "freeze_language_model": "language_model",
    "freeze_llm": "language_model",
}

_FEW_BITS = ("quantization", "quantization_bit", "quant_bits", "load_in_4bit", "load_in_8bit")
"""Any of them already says that the base is in few bits."""

_HELD_OUT = elsewhere("is set per data set: `held_out: 0.1` in its entry of `datasets:`")
_SEED = elsewhere("is set for the whole study: `seeds: [1, 2, 3]` at the top of the file")
_HUB_TOKEN = elsewhere("does not belong in a study file: `hf auth login`, or HF_TOKEN in the environment")
_OUTPUT = elsewhere("is not part of a study: results go to `--results DIR`")

_OPTIMISERS = {"adamw": "adamw_torch_fused", "adamw_bnb_8bit": "adamw_8bit", "paged_adamw": "paged_adamw_32bit"}

_STAGE: dict[str, Convert] = {
    **_renames(
        max_length="cutoff_len max_seq_length max_seq_len sequence_len model_max_length",
        num_train_epochs="num_epochs epochs",
        per_device_train_batch_size="micro_batch_size per_gpu_train_batch_size train_micro_batch_size_per_gpu",
        per_device_eval_batch_size="eval_batch_size per_gpu_eval_batch_size",
        effective_batch_size="global_batch_size total_batch_size",
        learning_rate="lr",
        lr_scheduler_type="lr_scheduler",
        optim="optimizer",
        max_grad_norm="gradient_clipping max_norm",
        activation_checkpointing="gradient_checkpointing",
        label_smoothing_factor="label_smoothing",
        neftune_noise_alpha="neftune_alpha",
        packing="sample_packing",
        data="dataset train_dataset",
        eval_data="eval_dataset val_dataset",
        preprocessing_num_workers="dataset_num_proc dataset_prep_workers dataset_processes",
        report_to="report_to_trackers",
        learning_rates__vision_tower="vit_lr vision_tower_lr",
        learning_rates__projector="aligner_lr mm_projector_lr projector_lr",
        adapter__lora_r="lora_rank lora_r",
        adapter__lora_alpha="lora_alpha",
        adapter__lora_dropout="lora_dropout",
        adapter__use_rslora="use_rslora peft_use_rslora rslora",
        adapter__rank_pattern="rank_pattern",
        adapter__alpha_pattern="alpha_pattern",
        adapter__target_parameters="target_parameters lora_target_parameters",
        early_stopping_patience="early_stopping_steps early_stop_interval patience",
        layer_lr_decay="layerwise_lr_decay layer_decay llrd",
        save_merged="merge_lora",
        hub_model_id="push_to_hub_model_id",
        hub_private_repo="hub_private",
        quantization__bnb_4bit_quant_type="bnb_4bit_quant_type quantization_type",
        quantization__bnb_4bit_use_double_quant="bnb_4bit_use_double_quant double_quantization",
        quantization__bnb_4bit_quant_storage="bnb_4bit_quant_storage",
    ),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _targets("adapter.target_modules")),
    "lora_target_linear": _flag({"adapter.target_modules": "all-linear"}, {}),
    **dict.fromkeys(("use_dora", "peft_use_dora"), _flag({"adapter.type": "dora"}, {})),
    **dict.fromkeys(("init_lora_weights", "init_weights"), _adapter_start("adapter.init_lora_weights")),
    **dict.fromkeys(("quantization_bit", "quant_bits"), _bits),
    **dict.fromkeys(("quantization_method", "quant_method"), _method),
    **{key: _flag({f"quantization.{key}": True}, {}) for key in ("load_in_4bit", "load_in_8bit")},
    "bnb_4bit_compute_dtype": _compute_dtype,
    "save_only_model": _flag({"full_save_steps": None}, {}),
    **dict.fromkeys(
        ("modules_to_save", "additional_target", "lora_modules_to_save"),
        elsewhere("is `train: [role, …]` beside the adapter: roles that are trained in full"),
    ),
    **dict.fromkeys(("finetuning_type", "tuner_type", "train_type"), _tuner),
    "warmup_ratio": _warmup_share,
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), _cadence("eval_on_epoch_end", "eval_steps")),
    "save_strategy": _cadence("save_on_epoch_end", "save_steps"),
    **dict.fromkeys(("train_on_inputs", "train_on_prompt"), _flag({"loss_on": "all"}, {"loss_on": "assistant"})),
    "group_by_length": _flag({"order": "length_grouped"}, {}),
    **dict.fromkeys(("val_size", "val_set_size", "split_dataset_ratio"), _HELD_OUT),
    "seed": _SEED,
    "output_dir": _OUTPUT,
    **dict.fromkeys(("hub_token", "push_to_hub_token"), _HUB_TOKEN),
    "hub_always_push": elsewhere(
        "is not needed: pushes wait in a queue, and the newest checkpoint takes older ones' place"
    ),
    "max_samples": elsewhere("is `limit` in an entry of `datasets:`, or `max_samples` in an item of `data:`"),
}

ALIASES: dict[Level, dict[str, Convert]] = {
    "study": {
        **_renames(study="name", model__model_name_or_path="base_model model_name_or_path"),
        "seed": lambda value: {"seeds": [value]},
        "output_dir": _OUTPUT,
    },
    "model": {
        **_renames(
            model_name_or_path="base_model name_or_path name path", revision="model_revision", dtype="torch_dtype"
        ),
        **dict.fromkeys(("flash_attn", "flash_attention", "attn_impl"), _attention),
    },
    "dataset": _renames(
        held_out="val_size val_set_size split_dataset_ratio",
        limit="max_samples num_samples",
        path="file data_path",
        columns="field_mapping",
        system="system_prompt",
    ),
    "stage": _STAGE,
    "merge": MERGE,
    "merge_input": MERGE_INPUT,
    "adapter": {
        **_renames(lora_r="lora_rank r rank", lora_alpha="alpha", lora_dropout="dropout", type="peft_type"),
        **_renames(sparse_lambda="sparse_lambda_2", gate_learning_rate="sparse_lr", use_rslora="rslora"),
        **dict.fromkeys(("lora_target", "lora_target_modules"), _targets("target_modules")),
        "lora_target_linear": _flag({"target_modules": "all-linear"}, {}),
        **dict.fromkeys(("use_dora", "peft_use_dora"), _flag({"type": "dora"}, {})),
    },
}

OWN: set[tuple[Level, str, str]] = {("dataset", "datacomp", "num_samples")}
"""Keys of one type that are foreign spellings in every other."""

for _level, _table in ALIASES.items():
    _hidden = KEYS[_level] & _table.keys() - {key for level, _, key in OWN if level == _level}
    assert not _hidden, f"{_level}: an alias hides a key: {_hidden}"

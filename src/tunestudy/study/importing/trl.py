"""TRL's keys, of `trl sft --config`, and of the recipes of alignment-handbook and open-r1.

Source: huggingface/trl, trl/trainer/{base_config,sft_config,model_config}.py and trl/scripts/utils.py (1.10).
"""

from typing import Any

from tunestudy.study.importing import hugging_face
from tunestudy.study.importing.rules import (
    Entry,
    ImpossibleError,
    NotNeededError,
    Program,
    Rule,
    View,
    cannot,
    few_bits,
    idle,
    listed,
    of_adapter,
    switch,
    to,
    truth,
    when,
    words,
)
from tunestudy.study.importing.sets import place, slug


def _refusal(view: View) -> str | None:
    command = str(view.given.get("command", ""))
    if command.startswith("trl ") and command != "trl sft":
        return f"{command} trains on preferences or rewards, or not at all; `trl sft` can be imported"
    for key in ("reward_funcs", "reward_model_path", "reward_model_name_or_path", "beta", "num_generations"):
        if view[key] is not None:
            return f"{key}: this trains on preferences or rewards, which is not what tunestudy does"
    return None


def _peft(value: Any, view: View) -> dict[str, Any]:
    if not truth(value):
        return {}
    return {"adapter.type": "dora" if view.on("use_dora") else "lora"}


def _targets(value: Any, _view: View) -> dict[str, Any]:
    names = listed(value)
    return {"adapter.target_modules": "all-linear" if names == ["all-linear"] else names}


def _held(view: View) -> str:
    written = str(view["torch_dtype"] or view["dtype"])
    return "bfloat16" if written == "auto" else written.removeprefix("torch.")


def _dtype(value: Any, _view: View) -> dict[str, Any]:
    if str(value) == "auto":
        return {"model.dtype": "bfloat16"}
    return {"model.dtype": str(value).removeprefix("torch.")}


def _evaluates(view: View) -> bool:
    return view["eval_strategy"] not in ("no", False)


def _data_set(value: Any, view: View) -> dict[str, Any]:
    """`dataset_name` with its subset and its splits for training and for evaluation."""
    if view.given.get("datasets") or view.given.get("dataset_mixture"):
        raise NotNeededError("the mixture counts")
    taken: set[str] = set()
    found = {"data": (_hub(str(value), view["dataset_config"], view["dataset_train_split"], view, taken),)}
    if _evaluates(view):
        split = view["dataset_test_split"]
        found["eval_data"] = (_hub(f"{value}_{split}", view["dataset_config"], split, view, taken, name=str(value)),)
    return found


def _hub(label: str, subset: Any, split: Any, view: View, taken: set[str], *, name: str = "") -> Entry:
    values = place(name or label, view)
    if "name" in values:
        values |= {
            key: one for key, one in (("subset", subset), ("split", split)) if one not in (None, "train", "default")
        }
    field = view["dataset_text_field"]
    columns = {"columns": {"text": field}} if field not in (None, "text") else {}
    return Entry(name=slug(label, taken), values={**values, **columns})


def _mixture(value: Any, view: View) -> dict[str, Any]:
    """`datasets:` of TRL, or `dataset_mixture:` of alignment-handbook and open-r1."""
    mixture = value if isinstance(value, dict) else {"datasets": value}
    parts = mixture.get("datasets") or []
    if not isinstance(parts, list) or not all(isinstance(one, dict) for one in parts):
        raise ImpossibleError("must be a list of mappings")
    taken: set[str] = set()
    written: dict[str, Any] = {"data": tuple(_part(one, view, taken) for one in parts)}
    size = mixture.get("test_split_size")
    if isinstance(size, float) and 0 < size < 1:
        written["dataset.held_out"] = size
    elif size is not None:
        written["impossible"] = f"test_split_size: {size} is a count; held_out of a data set is a share of its records"
    return written


def _part(one: dict[str, Any], view: View, taken: set[str]) -> Entry:
    name = one.get("path") or one.get("id")
    if not isinstance(name, str):
        raise ImpossibleError("each part is a mapping with a `path` (or `id`)")
    files = one.get("data_files")
    if isinstance(files, str):
        values = place(files, view)
    else:
        values = place(name, view)
        pairs = (("subset", one.get("name") or one.get("config")), ("split", one.get("split")))
        values |= {key: text for key, text in pairs if text not in (None, "train", "default")}
    fraction, kept = one.get("fraction"), one.get("weight", 1)
    problems: list[tuple[str, str]] = []
    if kept != 1:
        problems.append((f"{name}.weight", f"takes {kept} of its rows; that is limit: {kept} × the number of records"))
    if isinstance(files, list | dict):
        problems.append((f"{name}.data_files", "give each file its own data set, or a folder"))
    if one.get("data_dir"):
        problems.append((f"{name}.data_dir", "files of a hub's data set are chosen by subset and split"))
    label = f"{name}_{one['split']}" if one.get("split") not in (None, "train") else name
    return Entry(name=slug(label, taken), values=values, weight=fraction, impossible=tuple(problems))


def _answers_only(value: Any, view: View) -> dict[str, Any]:
    if truth(value):
        return {"stage.loss_on": "assistant"}
    if view.on("assistant_only_loss") or view.on("completion_only_loss"):
        raise NotNeededError("switched off; the other of the two counts")
    return {"stage.loss_on": "all"}


def _strategy(value: Any, view: View) -> dict[str, Any]:
    if value in ("wrapped", "bfd_split", "bfd-requeue") and view.on("packing"):
        raise ImpossibleError("samples are never cut to fill a row; longer ones are as overlong says")
    raise NotNeededError("samples are packed whole")


def _chat_template(value: Any, view: View) -> dict[str, Any]:
    found = view.found(str(value)) if "\n" not in str(value) else None
    if found is None and "{" not in str(value):
        raise ImpossibleError("a template of another tokenizer: save it as a file, and give that")
    return {"model.chat_template": str(value)}


def _notes(view: View) -> list[str]:
    if "assistant_only_loss" in view.given or "completion_only_loss" in view.given:
        return []
    return [
        "stages.tune.loss_on: all tokens count, which is TRL's default for conversations and running text; of records "
        "with prompt and completion it counts the completion: write assistant for those"
    ]


_IDLE = {
    "changes no result; tunestudy chooses": "padding_free pad_to_multiple_of activation_offloading padding_value "
    "ignore_bias_buffers eval_packing use_kernels",
    "told with the data set": "dataset_config dataset_train_split dataset_test_split dataset_text_field "
    "test_split_size",
    "columns are chosen by the format": "dataset_kwargs dataset_batch_size preprocessing_num_workers_ columns",
    "told with the loss": "lora_task_type",
    "the order is shuffled by the seed": "shuffle_dataset",
    "padding is never learnt, whatever stands for it": "pad_token",
    "an answer is learnt with its end, as the chat template writes it": "eos_token",
    "only with a tracker": "wandb_project wandb_entity wandb_run_group wandb_run_id",
}

RULES: dict[str, Rule] = {
    **hugging_face.RULES,
    **{key: idle(reason) for reason, keys in _IDLE.items() for key in keys.split()},
    "model_name_or_path": to("model.model_name_or_path"),
    "model_revision": to("model.revision"),
    "dtype": _dtype,
    "torch_dtype": _dtype,
    "use_peft": _peft,
    "lora_r": of_adapter(to("adapter.lora_r")),
    "lora_alpha": of_adapter(to("adapter.lora_alpha")),
    "lora_dropout": of_adapter(to("adapter.lora_dropout")),
    "lora_target_modules": of_adapter(_targets),
    "lora_target_parameters": of_adapter(to("adapter.target_parameters")),
    "lora_modules_to_save": cannot("roles trained in full beside an adapter are `train: [role, …]` of the stage"),
    "load_in_4bit": few_bits(4, held=_held, cure="set use_peft"),
    "load_in_8bit": few_bits(8, held=_held, cure="set use_peft"),
    "bnb_4bit_quant_type": when("load_in_4bit", to("quantization.bnb_4bit_quant_type")),
    "use_bnb_nested_quant": when(
        "load_in_4bit",
        switch(
            {"quantization.bnb_4bit_use_double_quant": True},
            {"quantization.bnb_4bit_use_double_quant": False},
        ),
    ),
    "bnb_4bit_quant_storage": when("load_in_4bit", to("quantization.bnb_4bit_quant_storage")),
    "dataset_name": _data_set,
    "datasets": _mixture,
    "dataset_mixture": _mixture,
    "dataset_streaming": cannot("data are prepared before the first step; `limit:` of a data set takes a part"),
    "streaming": cannot("data are prepared before the first step; `limit:` of a data set takes a part"),
    "dataset_num_proc": to("stage.preprocessing_num_workers"),
    "max_length": to("stage.max_length"),
    "max_seq_length": to("stage.max_length"),
    "truncation_mode": words("stage.overlong", {"keep_start": "truncate"}, "samples are cut at their end"),
    "packing": switch({"stage.packing": True}, {"stage.packing": False}),
    "packing_strategy": _strategy,
    "assistant_only_loss": _answers_only,
    "completion_only_loss": _answers_only,
    "loss_type": cannot(
        "the loss is the mean over target tokens; no other is here", unless=("nll", "chunked_nll", None)
    ),
    "chat_template": _chat_template,
    "chat_template_path": _chat_template,
    "model_init_kwargs": cannot("options of a class are its configuration; give a model that has them"),
    "router_aux_loss_coef": cannot(
        "the balance of a model's own experts is not in the loss; expert_log.csv watches it"
    ),
    "env": idle("told one by one"),
    "system_prompt": to("dataset.system"),
    "benchmarks": cannot("what is generated and scored is a benchmark: an entry of `benchmarks:`"),
}

PROGRAM = Program(
    name="trl",
    title="TRL",
    source="https://github.com/huggingface/trl",
    rules=RULES,
    defaults={
        **hugging_face.DEFAULTS,
        "dtype": "float32",
        "learning_rate": 2e-5,
        "logging_steps": 10,
        "gradient_checkpointing": True,
        "bf16": lambda view: not view.on("fp16"),
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "use_bnb_nested_quant": False,
        "max_length": lambda view: view.given.get("max_seq_length") or 1024,
        "assistant_only_loss": False,
        "dataset_train_split": "train",
        "dataset_test_split": "test",
    },
    notes=_notes,
    habits={"stage.overlong": ("truncate", "cuts what is longer")},
    refusal=_refusal,
    has_adapter=lambda view: view.on("use_peft"),
    marks=frozenset({"dataset_name", "dataset_mixture", "use_peft", "lora_r"}),
)

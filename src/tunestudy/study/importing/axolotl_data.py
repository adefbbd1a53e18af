"""axolotl's data sets: a list of mappings with `path`, `type` and the names of fields.

Source: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas/datasets.py and docs/dataset-formats.
"""

from typing import Any

from tunestudy.study.importing.rules import Entry, ImpossibleError, View
from tunestudy.study.importing.sets import ENDINGS, only_named, place, slug

Declared = dict[str, Any]
LOADERS = ("json", "csv", "parquet", "arrow", "text")

_READ_KEYS = (
    "path type split name revision data_files ds_type field_messages message_property_mappings field "
    "message_field_role message_field_content roles_to_train train_on_eos train_on_eot chat_template roles "
    "trust_remote_code field_thinking conversation text_column preprocess_shards field_human field_model "
    "drop_system_message"
)
_READ = frozenset(_READ_KEYS.split())
_LEFT = {
    "shards": "a part is taken by limit",
    "shards_idx": "a part is taken by limit",
    "field_tools": "tools are not rendered; write them into the prompts",
    "message_field_training": "turns of assistants all count; `loss_on: completion` learns the last alone",
    "message_field_training_detail": "turns of assistants all count; `loss_on: completion` learns the last alone",
    "chat_template_jinja": "one chat template is the whole study's: chat_template of the model",
    "skip": "a part is taken by limit",
}


def data_sets(value: Any, view: View) -> dict[str, Any]:
    return {"data": _entries(value, view, set())}


def evaluation_sets(value: Any, view: View) -> dict[str, Any]:
    taken: set[str] = set()
    _entries(view["datasets"] or [], view, taken)
    return {"eval_data": _entries(value, view, taken)}


def pretraining_sets(value: Any, view: View) -> dict[str, Any]:
    """Running text, of which every token counts."""
    written = value if isinstance(value, list) else [value]
    texts = [{**(one if isinstance(one, dict) else {"path": one}), "type": "completion"} for one in written]
    fields = [{"field": one.get("text_column", "text"), **one} for one in texts]
    return {"data": _entries(fields, view, set()), "stage.loss_on": "all"}


def _entries(value: Any, view: View, taken: set[str]) -> tuple[Entry, ...]:
    declared = value if isinstance(value, list) else [value]
    for one in declared:
        if not isinstance(one, dict) or not isinstance(one.get("path"), str):
            raise ImpossibleError("each data set is a mapping with a `path`")
    return tuple(_entry(one, view, taken) for one in declared)


def _entry(declared: Declared, view: View, taken: set[str]) -> Entry:
    values = _origin(declared, view)
    name = slug(str(values.get("path") or values.get("name")), taken)
    form, told, problems = _form(declared)
    values |= form
    left = {key: one for key, one in declared.items() if key not in _READ}
    problems += only_named(left, _LEFT, "has no counterpart in a data set")
    roles = declared.get("roles_to_train")
    if roles not in (None, ["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]):
        problems += (("roles_to_train", "turns of assistants are learnt, or all with loss_on: all"),)
    if declared.get("train_on_eos", "turn") not in ("turn", "all"):
        problems += (("train_on_eos", "an answer is learnt with its end"),)
    return Entry(
        name=name, values=values, told=told, impossible=tuple((f"datasets: {name}.{k}", w) for k, w in problems)
    )


def _origin(declared: Declared, view: View) -> Declared:
    """Where the records are: a hub's data set, or files (also of the loader `json` with `data_files`)."""
    path, files = declared["path"], declared.get("data_files")
    if path.startswith(("s3://", "gs://", "gcs://", "az://", "adl://", "oci://", "http://", "https://")):
        raise ImpossibleError(f"{path}: only files and Hugging Face's hub are read; download it and give its path")
    if files and (path in LOADERS or view.found(path) is not None):
        names = files if isinstance(files, list) else [files]
        if len(names) > 1:
            raise ImpossibleError("data_files: give each file its own data set, or a folder")
        return place(str(names[0]), view)
    values = place(path, view)
    if "path" in values:
        return values
    if declared.get("ds_type") and path.endswith(ENDINGS):
        return {"path": path}
    keys = {"name": "subset", "split": "split", "revision": "revision"}
    return {**values, **{ours: declared[key] for key, ours in keys.items() if declared.get(key)}}


def _form(declared: Declared) -> tuple[Declared, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Format and columns; what is another way here; what has no counterpart."""
    kind = declared.get("type")
    if isinstance(kind, dict):
        return _own_form(kind)
    base = str(kind or "").partition(".")[0].partition(":")[0]
    if base == "alpaca":
        return {"format": "alpaca"}, (_ALPACA,), ()
    if base in ("chat_template", "sharegpt"):
        return _conversations(declared, base)
    if base in ("completion", "pretrain"):
        column = declared.get("field") or "text"
        return {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}, (), ()
    if kind is None:
        return {}, (), ()
    return {}, (), (("type", f"{kind}: its prompt is axolotl's own; the columns decide the format here"),)


_ALPACA = (
    "alpaca records are written in the model's chat template here, under `### Instruction:` headings there; "
    "a model without a template needs one: chat_template of the model"
)


def _conversations(declared: Declared, base: str) -> tuple[Declared, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Turns in a column; tunestudy reads `role` and `content`, or `from` and `value`, by itself."""
    usual = "conversations" if base == "sharegpt" else "messages"
    column = declared.get("field_messages") or usual
    mappings = declared.get("message_property_mappings") or {
        "role": declared.get("message_field_role") or "role",
        "content": declared.get("message_field_content") or "content",
    }
    problems: tuple[tuple[str, str], ...] = ()
    pair = (mappings.get("role", "role"), mappings.get("content", "content"))
    if pair not in (("role", "content"), ("from", "value")):
        words = f"turns have `role` and `content`, or `from` and `value`, not `{pair[0]}` and `{pair[1]}`"
        problems += (("message_property_mappings", words),)
    known = {"user": {"user", "human"}, "assistant": {"assistant", "gpt", "model", "chatgpt"}, "system": {"system"}}
    for role, spellings in (declared.get("roles") or {}).items():
        if strange := set(map(str, spellings)) - known.get(role, {"tool", "observation"}):
            problems += (("roles", f"{', '.join(sorted(strange))} is no role that is read; rename it in the file"),)
    field = "messages" if column != "conversations" else "conversations"
    form = "messages" if field == "messages" else "sharegpt"
    return {"format": form, **({"columns": {field: column}} if column != field else {})}, (), problems


def _own_form(kind: Declared) -> tuple[Declared, tuple[str, ...], tuple[tuple[str, str], ...]]:
    """`type: {field_instruction: …, format: …}`."""
    fields = {"field_instruction": "instruction", "field_input": "input", "field_output": "output"}
    columns = {ours: kind[key] for key, ours in fields.items() if kind.get(key, ours) != ours}
    if kind.get("field_system"):
        columns["system"] = kind["field_system"]
    values: Declared = {"format": "alpaca", **({"columns": columns} if columns else {})}
    if kind.get("system_prompt"):
        values["system"] = kind["system_prompt"]
    formats = tuple(
        (f"type.{key}", "prompts are written by the model's chat template; write others into the records")
        for key in ("format", "no_input_format", "system_format")
        if kind.get(key)
    )
    return values, (), formats

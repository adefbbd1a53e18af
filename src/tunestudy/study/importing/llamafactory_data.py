"""LLaMA-Factory's data sets: names in `dataset:`, declared in dataset_info.json.

Source: hiyouga/LLaMA-Factory, src/llamafactory/data/parser.py and data/README.md.
"""

import json
from typing import Any

from tunestudy.study.importing.rules import Entry, ImpossibleError, View, listed, plain
from tunestudy.study.importing.sets import place, slug
from tunestudy.study.nearest import did_you_mean

Info = dict[str, Any]

_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
_ROLES = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "chatgpt", "model"),
    "system_tag": ("system", "developer"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call",),
}
"""Tags and the spellings that tunestudy reads."""


def data_sets(value: Any, view: View) -> dict[str, Any]:
    names = [str(name) for name in listed(value)]
    shares = _shares(view, len(names))
    return {"data": _entries(names, shares, view, taken=set())}


def evaluation_sets(value: Any, view: View) -> dict[str, Any]:
    names = [str(name) for name in listed(value)]
    trained = [str(name) for name in listed(view["dataset"] or [])]
    if any(name in trained for name in names):
        raise ImpossibleError("is also trained on; hold rows out: `held_out:` of its entry in `datasets:`")
    taken: set[str] = set()
    for name in trained:
        slug(name, taken)
    return {"eval_data": _entries(names, [None] * len(names), view, taken=taken)}


def _shares(view: View, count: int) -> list[float | None]:
    """`interleave_probs` as weights of the mixture."""
    given = view.given.get("interleave_probs")
    probabilities = [plain(one) for one in listed(given)] if given else []
    return probabilities if len(probabilities) == count else [None] * count


def _entries(names: list[str], weights: list[float | None], view: View, taken: set[str]) -> tuple[Entry, ...]:
    info = _info(view)
    online = str(view["dataset_dir"] or "") == "ONLINE"
    made = []
    for name, weight in zip(names, weights, strict=True):
        if info is None or online:
            made.append(_undeclared(name, weight, view, taken, online=online))
        elif name not in info:
            raise ImpossibleError(f"dataset_info.json has no {name}; {did_you_mean(name, info)}")
        else:
            made.append(_declared(name, info[name], weight, view, taken))
    return tuple(made)


def _info(view: View) -> Info | None:
    """The declarations beside the configuration; None where there are none."""
    folder = view["dataset_dir"] or "data"
    if isinstance(folder, dict):
        return folder
    file = view.found(f"{folder}/dataset_info.json") or view.found("dataset_info.json")
    if file is None:
        return None
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImpossibleError(f"{file} cannot be read as JSON: {error}") from None
    return info if isinstance(info, dict) else None


def _undeclared(name: str, weight: float | None, view: View, taken: set[str], *, online: bool) -> Entry:
    """A data set whose declaration is not at hand: a hub id as such, else LLaMA-Factory's own file of that name."""
    if online or "/" in name:
        return Entry(name=slug(name, taken), values={"name": name}, weight=weight)
    folder = str(view["dataset_dir"] or "data")
    folder = "data" if folder.startswith("REMOTE:") else folder
    told = (
        f"dataset_info.json is not beside the configuration, so {folder}/{name}.json is a guess: put it there, or mend"
    )
    return Entry(name=slug(name, taken), values=place(f"{folder}/{name}.json", view), weight=weight, told=(told,))


def _declared(name: str, attributes: Info, weight: float | None, view: View, taken: set[str]) -> Entry:
    if attributes.get("ranking"):
        raise ImpossibleError(f"{name} holds preferences (ranking: true); tunestudy trains on answers")
    values, told = _origin(attributes, view), []
    columns = {key: str(one) for key, one in (attributes.get("columns") or {}).items()}
    if view["stage"] == "pt":
        column = columns.get("prompt", "instruction")
        values |= {"format": "text", **({"columns": {"text": column}} if column != "text" else {})}
    elif attributes.get("formatting", "alpaca") == "alpaca":
        values |= {"format": "alpaca", **_alpaca_columns(columns)}
        if not columns or "query" in columns:
            told.append("an input follows its instruction after a line break there, after an empty line here")
    else:
        values |= _conversations(attributes.get("formatting"), columns)
    values |= _rest(columns, values)
    if isinstance(attributes.get("num_samples"), int):
        values["limit"] = attributes["num_samples"]
    problems = _problems(name, attributes, columns)
    return Entry(name=slug(name, taken), values=values, weight=weight, told=tuple(told), impossible=problems)


def _origin(attributes: Info, view: View) -> Info:
    """Where the records are: its file under dataset_dir, or the hub."""
    if "hf_hub_url" in attributes:
        keys = {"subset": "subset", "split": "split"}
        return {"name": attributes["hf_hub_url"], **{k: attributes[a] for a, k in keys.items() if attributes.get(a)}}
    for key in ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"):
        if key in attributes:
            raise ImpossibleError(
                f"{attributes[key]} ({key}) is not on Hugging Face's hub; download it and give `path:`"
            )
    folder = view["dataset_dir"] if isinstance(view["dataset_dir"], str) else "data"
    return place(f"{folder}/{attributes.get('file_name', '')}", view)


def _alpaca_columns(columns: dict[str, str]) -> Info:
    mapping = {ours: columns[theirs] for theirs, ours in _ALPACA.items() if columns.get(theirs, ours) != ours}
    return {"columns": mapping} if mapping else {}


def _conversations(formatting: Any, columns: dict[str, str]) -> Info:
    field, form = ("messages", "messages") if formatting == "openai" else ("conversations", "sharegpt")
    column = columns.get("messages", "conversations")
    return {"format": form, **({"columns": {field: column}} if column != field else {})}


def _rest(columns: dict[str, str], values: Info) -> Info:
    """Columns that every format may have."""
    more = {key: columns[key] for key in ("system", "images") if columns.get(key, key) != key}
    return {"columns": {**values.get("columns", {}), **more}} if more else {}


_COLUMNS = {*_ALPACA, "messages", "system", "images"}
_LEFT = {
    "tools": "tools are not rendered; write them into the prompts",
    "videos": "no stage trains on video; such records are left out with a reason",
    "audios": "no stage trains on audio; such records are left out with a reason",
}
_KNOWN = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "formatting", "columns", "tags", "subset", "split"}


def _problems(name: str, attributes: Info, columns: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """What of a declaration has no counterpart."""
    found = [
        (f"{name}.columns.{key}", _LEFT.get(key, "no format has such a field"))
        for key in columns
        if key not in _COLUMNS
    ]
    for tag, written in (attributes.get("tags") or {}).items():
        if tag in _ROLES and written not in _ROLES[tag]:
            found.append((f"{name}.tags.{tag}", f"{written} is no role that is read; rename it in the file"))
        elif tag not in _ROLES and (tag, written) not in _PAIRS:
            found.append((f"{name}.tags.{tag}", "turns have `role` and `content`, or `from` and `value`"))
    rest = attributes.keys() - _KNOWN - {"num_samples", "ranking"}
    found += [(f"{name}.{key}", "has no counterpart in a data set") for key in sorted(rest)]
    return tuple(found)


_PAIRS = {("role_tag", "role"), ("role_tag", "from"), ("content_tag", "content"), ("content_tag", "value")}

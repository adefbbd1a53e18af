"""ms-swift's data sets: `id:subset/subset#count`, on ModelScope's hub unless `use_hf` or `HF::` says otherwise.

Source: modelscope/ms-swift, swift/dataset/dataset_syntax.py; the pairs of ids are those of its own registry.
"""

import re
from typing import Any

from tunestudy.study.importing.rules import Entry, View, plain
from tunestudy.study.importing.sets import place, slug

SAME_ON_HUGGING_FACE = {
    "AI-ModelScope/alpaca-gpt4-data-zh": "llm-wizard/alpaca-gpt4-data-zh",
    "AI-ModelScope/alpaca-gpt4-data-en": "vicgalle/alpaca-gpt4",
    "AI-ModelScope/alpaca-cleaned": "yahma/alpaca-cleaned",
    "AI-ModelScope/LaTeX_OCR": "linxy/LaTeX_OCR",
    "AI-ModelScope/coco": "detection-datasets/coco",
    "AI-ModelScope/function-calling-chatml": "Locutusque/function-calling-chatml",
    "AI-ModelScope/LongAlpaca-12k": "Yukang/LongAlpaca-12k",
    "AI-ModelScope/CodeAlpaca-20k": "HuggingFaceH4/CodeAlpaca_20K",
    "AI-ModelScope/Open-Platypus": "garage-bAInd/Open-Platypus",
    "AI-ModelScope/MathInstruct": "TIGER-Lab/MathInstruct",
    "swift/self-cognition": "modelscope/self-cognition",
    "swift/chinese-c4": "shjwudp/chinese-c4",
    "swift/ChartQA": "HuggingFaceM4/ChartQA",
    "swift/VQAv2": "HuggingFaceM4/VQAv2",
    "swift/OpenHermes-2.5": "teknium/OpenHermes-2.5",
    "swift/SlimOrca": "Open-Orca/SlimOrca",
    "swift/ultrachat_200k": "HuggingFaceH4/ultrachat_200k",
    "swift/no_robots": "HuggingFaceH4/no_robots",
}
"""ModelScope's id → the same data on Hugging Face's hub."""

_SYNTAX = re.compile(r"(?:(HF|MS|hf|ms)::)?(.+?)(?:#(\d+))?")


def data_sets(value: Any, view: View) -> dict[str, Any]:
    probabilities = view.given.get("interleave_prob")
    names = value if isinstance(value, list) else [value]
    weights = probabilities if isinstance(probabilities, list) and len(probabilities) == len(names) else []
    entries = _entries(names, view, set())
    if weights:
        entries = tuple(_weighted(one, plain(weight)) for one, weight in zip(entries, weights, strict=True))
    return {"data": entries}


def evaluation_sets(value: Any, view: View) -> dict[str, Any]:
    taken: set[str] = set()
    trained = view["dataset"] or []
    _entries(trained if isinstance(trained, list) else [trained], view, taken)
    return {"eval_data": _entries(value if isinstance(value, list) else [value], view, taken)}


def _weighted(entry: Entry, weight: Any) -> Entry:
    return Entry(name=entry.name, values=entry.values, weight=weight, told=entry.told, impossible=entry.impossible)


def _entries(names: list[Any], view: View, taken: set[str]) -> tuple[Entry, ...]:
    return tuple(_entry(str(name), view, taken) for name in names)


def _entry(written: str, view: View, taken: set[str]) -> Entry:
    hub, rest, count = _SYNTAX.fullmatch(written).groups()  # type: ignore[union-attr]  # it matches any text
    name, subsets = _subsets(rest)
    values, told, problems = place(name, view), [], []
    if "name" in values:
        values["name"], words = _on_hugging_face(name, view, hub)
        told += words
        if subsets == "all":
            told.append("`all` of its subsets are not joined here: name them, `subset: one+other`")
        elif subsets:
            values["subset"] = "+".join(subsets.split("/"))
    elif subsets:
        problems.append((f"{written} (subset)", "a file has no subsets; give each its own entry"))
    values |= _columns(view)
    if count:
        values["limit"] = int(count)
    return Entry(name=slug(name, taken), values=values, told=tuple(told), impossible=tuple(problems))


def _subsets(rest: str) -> tuple[str, str]:
    """`id:one/two` → id and subsets; a drive or a URL is none."""
    name, colon, subsets = rest.rpartition(":")
    return (name, subsets) if colon and not subsets.startswith(("/", "\\")) and len(name) > 1 else (rest, "")


def _on_hugging_face(name: str, view: View, hub: str | None) -> tuple[str, list[str]]:
    if (hub or "").lower() == "hf" or view.on("use_hf") or view.on("env.USE_HF"):
        return name, []
    if name in SAME_ON_HUGGING_FACE:
        other = SAME_ON_HUGGING_FACE[name]
        return other, [f"{name} of ModelScope's hub is {other} on Hugging Face's, by ms-swift's own list"]
    return name, [f"{name} is of ModelScope's hub: see that Hugging Face's has it, or download it and give `path:`"]


def _columns(view: View) -> dict[str, Any]:
    """`columns`: the file's column → ms-swift's name of it; ours is the other way round."""
    given = view["columns"]
    if not isinstance(given, dict):
        return {}
    ours = {"query": "instruction", "response": "output", "text": "text", "messages": "messages", "images": "images"}
    return {"columns": {ours.get(str(theirs), str(theirs)): str(column) for column, theirs in given.items()}}

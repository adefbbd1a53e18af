"""The lines of Python that load a published result, by its kind."""

import json
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import read_json
from tunestudy.report.values import mapping
from tunestudy.share.content import ADAPTER_CONFIG

COMPONENTS = "components.json"
_AUTO = {True: "AutoModelForImageTextToText", False: "AutoModelForCausalLM"}


def sees_images(folder: Path) -> bool:
    """Whether a model's folder holds an image processor."""
    return any(folder.glob("*processor_config.json"))


def adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """Hub id and revision of an adapter's base; None where the base lies in a folder, which nobody else has."""
    config = mapping(read_json(folder / ADAPTER_CONFIG))
    name = str(config.get("base_model_name_or_path") or "")
    is_hub_id = name.count("/") <= 1 and bool(name) and not name.startswith((".", "/", "~")) and "\\" not in name
    return (name, config.get("revision")) if is_hub_id else None


def how_to_load(folder: Path, kind: str, repo: str, base: tuple[str, str | None] | None) -> str:
    """Python that works once the base is at hand. `base`: its hub id and revision, None where it is not on the hub."""
    if kind == "world":
        return _downloaded("from tunestudy.models.components.world import load_world", "load_world", repo)
    if kind == "mole":
        return _downloaded("from tunestudy.models.mole_files import load_mole", "load_mole", repo)
    auto = _AUTO[sees_images(folder)]
    tokens = f'tokenizer = AutoTokenizer.from_pretrained("{repo}")'
    if kind == "adapter":
        lines = ["from peft import PeftModel", f"from transformers import {auto}, AutoTokenizer", ""]
        lines.append(f"base = {auto}.from_pretrained({_base(base)})")
        return "\n".join([*lines, f'model = PeftModel.from_pretrained(base, "{repo}")', tokens])
    if (folder / COMPONENTS).is_file():
        lines = ["from transformers import AutoTokenizer", "from tunestudy.models.components import load_vision_model"]
        return "\n".join([*lines, "", f'model = load_vision_model("{repo}")', tokens])
    lines = [f"from transformers import {auto}, AutoTokenizer", ""]
    return "\n".join([*lines, f'model = {auto}.from_pretrained("{repo}")', tokens])


def _base(base: tuple[str, str | None] | None) -> str:
    if base is None:
        return '"path/to/the/base"'
    name, revision = base
    return json.dumps(name) + (f", revision={json.dumps(revision)}" if revision else "")


def _downloaded(line: str, function: str, repo: str) -> str:
    """These loaders take a folder."""
    lines: list[Any] = ["from huggingface_hub import snapshot_download", line, ""]
    return "\n".join([*lines, f'model, tokenizer = {function}(snapshot_download("{repo}"))'])

"""Folders of weights that a study names: whether what lies there is a model or an adapter that can be read.

Small files alone are looked at.
"""

from pathlib import Path

from tunestudy.records.atomic import read_object

WHOLE = ("model.safetensors", "model.safetensors.index.json")


def folder_mistake(folder: Path, written: str, *, needs_adapter: bool = False) -> str | None:
    """What is wrong with a folder of weights, None when nothing is; `written`: as the user gave it."""
    if folder.is_file():
        return f"`{written}` is a file; give the folder that holds it"
    if not folder.is_dir():
        parts = written.split("/")
        is_hub = len(parts) == 2 and all(parts) and parts[0] not in (".", "..", "~")
        hint = "; of a model of the hub, download it first and give the folder" if is_hub else ""
        return f"there is no folder `{written}`{hint}"
    if (folder / "job.json").is_file():
        return f"`{written}` is a job's folder; its result is `{written.rstrip('/')}/model`"
    if (folder / "adapter_config.json").is_file():
        return _adapter_mistake(folder, written) if needs_adapter else None
    if needs_adapter:
        return f"`{written}` holds no adapter_config.json, and a LoRA adapter is needed here"
    if not (folder / "config.json").is_file():
        return f"`{written}` holds neither config.json (a model) nor adapter_config.json (a PEFT adapter)"
    if not any((folder / name).is_file() for name in WHOLE):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        cure = "; convert its pickled weights to safetensors first" if pickled else ""
        return f"`{written}` holds no {WHOLE[0]} and no {WHOLE[1]}{cure}"
    return None


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def _adapter_mistake(folder: Path, written: str) -> str | None:
    config = read_object(folder / "adapter_config.json")  # of an unreadable one the worker says what is wrong
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        return f"`{written}` is an adapter of type {kind}, and a LoRA is needed here"
    if config.get("use_dora"):
        return f"`{written}` is a DoRA, whose magnitudes do not add up; a LoRA is needed here"
    return None

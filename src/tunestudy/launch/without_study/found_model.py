"""What a path on the command line holds: a whole model, a PEFT adapter, a result or a checkpoint of tunestudy.

Read from small files alone: nothing of a model is loaded.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.paths import located
from tunestudy.records.manifest import read_manifest

OPTION = "--model"
MOLE_CONFIG = "mole_config.json"
PATHS = ("model_name_or_path", "weights", "tokenizer", "chat_template")
"""Keys of `model:` that may hold a path; here it is absolute then."""


@dataclass(frozen=True)
class FoundModel:
    """A model as a study's `model:` names it."""

    settings: Mapping[str, Any]
    """Values of `model:`; paths are absolute."""
    label: str
    """What to call it in a table."""
    seed: int = 0
    """Random weights are drawn by it."""

    def relative_to(self, root: Path) -> dict[str, Any]:
        """The settings with paths as seen from a study file in `root`."""
        is_path = {key for key in PATHS if str(self.settings.get(key)).startswith("/")}
        return {key: seen_from(root, value) if key in is_path else value for key, value in self.settings.items()}


def find_model(written: str) -> FoundModel:
    """The model at a path, or of a hub id. StudyError for what cannot be evaluated by itself, with the cure."""
    path = located(Path(), written)
    if path.is_file():
        raise _wrong(written, "is a file; give the folder that holds it")
    if not path.is_dir():
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", written):
            return FoundModel({"model_name_or_path": written}, _label(written.rpartition("/")[2]))
        raise _wrong(written, "there is no such folder, and it is no hub id (organisation/name)")
    folder = path.resolve()
    if (folder / "job.json").is_file():  # of a whole job, or reached through `trials/`
        folder = folder / "model"
    job = _job_of(folder)
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, job)
    if (folder / MOLE_CONFIG).is_file():
        return _mixture(folder, job)
    if (folder / "config.json").is_file():
        return FoundModel({"model_name_or_path": str(folder), **_dtype_of(folder)}, _name_of(folder, job))
    if (folder / "gated_adapter_config.json").is_file():
        raise _wrong(
            written, f"is the raw form of an adapter with gates; {_BY_STUDY}, or give the job's `model` folder"
        )
    if (folder / "model.safetensors").is_file() and job is not None:
        return _checkpoint(folder, job)
    if (read_manifest(folder) or {}).get("kind") == "world":
        raise _wrong(written, f"is a world part, not a model; {_BY_STUDY}")
    raise _wrong(written, "holds neither config.json (a model) nor adapter_config.json (a PEFT adapter)")


_BY_STUDY = "evaluate it by its study: `tunestudy eval STUDY`, with `checkpoints: true` in a benchmark for checkpoints"


def _adapter(folder: Path, job: Job | None) -> FoundModel:
    """A PEFT adapter with the base that it names: relative to its own folder, or a hub id."""
    return _laid_over(folder, job, "adapter_config.json")


def _mixture(folder: Path, job: Job | None) -> FoundModel:
    """A mixture of LoRA experts with the base that it names."""
    settings = None if job is None else job.training
    adapter = None if settings is None else settings.adapter
    if folder.name != "model" and isinstance(adapter, MoleAdapter) and not adapter.train_experts:
        raise _wrong(str(folder), f"holds gates alone, whose experts did not learn; {_BY_STUDY}")
    return _laid_over(folder, job, MOLE_CONFIG)


def _laid_over(folder: Path, job: Job | None, file: str) -> FoundModel:
    config = _json(folder / file)
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise _wrong(str(folder), f"its {file} names no base model (base_model_name_or_path)")
    near = (folder / base).resolve()
    settings: dict[str, Any] = {"model_name_or_path": base, "weights": str(folder)}
    if near.is_dir():
        settings |= {"model_name_or_path": str(near), **_dtype_of(near)}
    elif base.startswith((".", "/")):
        raise _wrong(str(folder), f"its {file} names {base} as its base, and that folder is not there")
    elif isinstance(config.get("revision"), str):
        settings["revision"] = config["revision"]
    settings |= _of_study(job)
    for place in (folder, folder.parent / "model"):
        if (place / "tokenizer_config.json").is_file():
            return FoundModel({**settings, "tokenizer": str(place)}, _name_of(folder, job))
    return FoundModel(settings, _name_of(folder, job))


def _checkpoint(folder: Path, job: Job) -> FoundModel:
    """A checkpoint of weights trained in full, over what its stage started from."""
    settings = job.training
    if settings is None or settings.components is not None or settings.world is not None:
        raise _wrong(str(folder), f"needs more than its weights; {_BY_STUDY}")
    if not job.parents:
        base = job.model.model_dump(mode="json", exclude_defaults=True)
        home = (folder.parent / job.base_dir).resolve()
        base |= {key: _absolute(base[key], home) for key in PATHS if isinstance(base.get(key), str)}
        return FoundModel({**base, "weights": str(folder)}, _name_of(folder, job), job.seed)
    start = folder.parent.parent / job.parents[-1] / "model"
    if not (start / "config.json").is_file():
        raise _wrong(str(folder), f"its stage started from an adapter ({job.parents[-1]}); {_BY_STUDY}")
    whole = {"model_name_or_path": str(start), "weights": str(folder), **_dtype_of(start), **_of_study(job)}
    return FoundModel(whole, _name_of(folder, job))


def _of_study(job: Job | None) -> dict[str, Any]:
    """What a study says of its model beside where it is."""
    if job is None:
        return {}
    told = job.model.model_dump(mode="json", exclude_defaults=True)
    return {key: told[key] for key in ("dtype", "image_processor", "trust_remote_code") if key in told}


def _job_of(folder: Path) -> Job | None:
    """The job that a result or a checkpoint belongs to."""
    file = folder.parent / "job.json"
    if not file.is_file():
        return None
    try:
        return Job.model_validate(_json(file))
    except ValidationError as error:
        raise _wrong(str(folder), f"{file} cannot be read: it is of another version of tunestudy") from error


def _dtype_of(folder: Path) -> dict[str, str]:
    """The dtype that a folder's weights are kept in, where its configuration says so."""
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    inner = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    told = [place.get(key) for place in (config, inner or {}) for key in ("dtype", "torch_dtype")]
    known = next((str(one).removeprefix("torch.") for one in told if one), "float32")
    return {"dtype": known} if known in ("bfloat16", "float16") else {}


def _name_of(folder: Path, job: Job | None) -> str:
    if job is None:
        return _label(folder.name)
    return _label(job.id if folder.name == "model" else f"{job.id}-{folder.name}")


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:60] or "model"


def _absolute(name: str, home: Path) -> str:
    path = home / name
    return str(path.resolve()) if "\n" not in name and path.exists() else name


def seen_from(root: Path, path: str) -> str:
    """An absolute path as a study file in `root` names it; always as one that starts with a dot."""
    relative = Path(os.path.relpath(path, root.resolve())).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _wrong(str(file), "cannot be read as JSON") from None
    return found if isinstance(found, dict) else {}


def _wrong(what: str, message: str) -> StudyError:
    return StudyError(OPTION, f"{what}: {message}")

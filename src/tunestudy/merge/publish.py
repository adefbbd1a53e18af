"""Publishing what was merged: the files that belong beside weights, where all came from, and result.json at last."""

import json
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunestudy.config.job import Job
from tunestudy.config.merge import BASE, MergeStage
from tunestudy.merge.compare import Compared, tokenizer_folder
from tunestudy.merge.source import Inputs
from tunestudy.merge.vocabulary import write_tokenizer
from tunestudy.models.stored import COMPONENTS_FILE
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import read_manifest, seal
from tunestudy.records.progress import Progress
from tunestudy.records.untrained import peak_of_process_mb, untrained_result

MODEL_FILES = ("config.json", "generation_config.json", COMPONENTS_FILE, "*.py")
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")
OLD_TOKENIZER_FILES = ("vocab.json", "merges.txt", "vocab.txt", "*.model")
"""The same tokens in older forms, which a union of vocabularies leaves behind."""
PROCESSOR_FILES = ("*processor_config.json",)
PROVENANCE = "merge.json"


def carry(job: Job, compared: Compared, prepared: Path) -> None:
    """Copy what belongs beside the result's weights into `prepared`: configuration, tokenizer, processor."""
    settings, inputs = job.merging, compared.inputs
    assert settings is not None
    if settings.into == "model":
        _copy(inputs.carried_from, prepared, MODEL_FILES)
    names = [BASE, *inputs.models] if inputs.base is not None else list(inputs.models)
    tokens = tokenizer_folder(inputs, _with_tokenizer(job, compared, names))
    united = compared.matched is not None and compared.matched.definition is not None
    _copy(tokens, prepared, TOKENIZER_FILES if united else (*TOKENIZER_FILES, *OLD_TOKENIZER_FILES))
    for folder in [tokens, inputs.carried_from, *(inputs.folders[name] for name in names)]:
        if _copy(folder, prepared, PROCESSOR_FILES):
            break
    if compared.matched is not None and settings.into == "model":
        write_tokenizer(compared.matched, prepared)
    if settings.dtype is not None and settings.into == "model":
        _tell_dtype(prepared / "config.json", settings.dtype)


def _with_tokenizer(job: Job, compared: Compared, names: list[str]) -> str:
    """Whose tokenizer the result gets: the first's. Where all have the same tokens, a stage's goes first, since it has
    the study's chat template."""
    order = names if compared.matched is not None else sorted(names, key=lambda name: name not in job.inputs)
    have = (name for name in order if (tokenizer_folder(compared.inputs, name) / "tokenizer.json").is_file())
    return next(have, names[0])


def _copy(source: Path, prepared: Path, patterns: Iterable[str]) -> int:
    found = [path for path in sorted(source.iterdir()) if path.is_file() and _fits(path.name, patterns)]
    for path in found:
        shutil.copyfile(path, prepared / path.name)
    return len(found)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _tell_dtype(path: Path, dtype: str) -> None:
    """The type of the weights in config.json and its sections, under the names that it has there."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in {"dtype", "torch_dtype"} & section.keys():
            section[key] = dtype
    config.setdefault("torch_dtype" if "torch_dtype" in config else "dtype", dtype)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of the libraries that a merge's numbers and files depend on."""
    return {name: version(name) for name in ("tunestudy", "torch", "numpy", "safetensors")}


def provenance(job: Job, compared: Compared) -> dict[str, Any]:
    """merge.json: method and settings, and what tells the inputs' weights apart. Equal merges have equal bytes."""
    settings, inputs = job.merging, compared.inputs
    assert settings is not None
    return {
        "settings": settings.model_dump(mode="json", exclude={"threads"}),
        "seed": job.seed,
        "inputs": {
            name: {"kind": inputs.kinds[name], "identity": identity, "job": job.inputs.get(name)}
            for name, identity in inputs.identities.items()
        },
        "absent": list(compared.absent),
        "vocabulary": None if compared.matched is None else compared.matched.as_json(),
        "warnings": list(compared.warnings),
        "versions": versions(),
    }


def seal_merged(job: Job, folder: JobDir, inputs: Inputs, prepared: Path) -> str:
    """Publish the finished folder as `model/`; returns its kind, `full` or `adapter`."""
    settings = job.merging
    assert settings is not None
    kind = "adapter" if settings.into == "adapter" else "full"
    facts = {
        "kind": kind,
        "fingerprint": job.fingerprint,
        "base": _base_identity(inputs, settings),
        "quantization": None,
        "versions": versions(),
        "step": 0,
    }
    seal(prepared, folder.model, facts)
    return kind


def _base_identity(inputs: Inputs, settings: MergeStage) -> Any:
    """Of what the result sits on, or was made from."""
    if settings.into == "model":
        return inputs.identities.get(BASE)
    first = next(iter(inputs.models))
    told = (read_manifest(inputs.folders[first]) or {}).get("base")
    return told or inputs.identities[first]["base"]


def write_result(
    job: Job, folder: JobDir, progress: Progress, *, kind: str, total_params: int, merge: Mapping[str, Any]
) -> None:
    """result.json, by which the job is done: the keys of one that trains nothing, and `merge`."""
    memory = peak_of_process_mb()
    result = untrained_result(job.fingerprint, progress, kind=kind, total_params=total_params, memory_mb=memory)
    write_json(folder.result_json, {**result, "merge": dict(merge)})

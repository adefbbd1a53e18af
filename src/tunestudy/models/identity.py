"""What tells two bases apart: written into every manifest, compared before an adapter is put on a base."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunestudy.config.model import ModelConfig
from tunestudy.models.stored import COMPONENTS_FILE
from tunestudy.records.manifest import read_manifest

Identity = dict[str, Any]

ENDS_BYTES = 1 << 20
"""Of a weight file that no manifest vouches for, size and both ends are hashed: reading all of 16 GB takes too long."""


def folder_identity(folder: Path) -> Identity:
    """Of a model folder, wherever it lies: the hashes in its manifest, or of its config and its weight files' ends."""
    digest = hashlib.sha256()
    manifest = read_manifest(folder)
    components = folder.glob(COMPONENTS_FILE)
    for path in sorted([folder / "config.json", *components, *folder.glob("*.safetensors")]):
        known = (manifest or {"files": {}})["files"].get(path.name)
        digest.update(f"{path.name} {known['sha256'] if known else _ends(path)}\n".encode())
    return {"kind": "folder", "sha256": digest.hexdigest()}


def ends_identity(files: Sequence[Path]) -> Identity:
    """Of given files of a folder, such as an adapter's; one that is missing is left out."""
    digest = hashlib.sha256()
    for path in files:
        if path.is_file():
            digest.update(f"{path.name} {_ends(path)}\n".encode())
    return {"kind": "folder", "sha256": digest.hexdigest()}


def random_identity(settings: ModelConfig, seed: int, config: Any) -> Identity:
    """Of random weights of a job of that seed: the class, its whole configuration and what they are drawn by."""
    seed = settings.drawn_by(seed)
    values = json.dumps(config.to_diff_dict(), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{settings.architecture} {settings.dtype} {seed} {values}".encode()).hexdigest()
    return {"kind": "random", "architecture": settings.architecture, "seed": seed, "sha256": digest}


def hub_identity(name: str, model: Any) -> Identity:
    """Of a model that came from the hub: the commit that it was read at."""
    return {"kind": "hub", "name": name, "revision": getattr(model.config, "_commit_hash", None)}


def base_identity(name: str, model: Any) -> Identity:
    """Of a model that was read from an absolute folder, or else by a name of the hub's."""
    return folder_identity(Path(name)) if Path(name).is_absolute() else hub_identity(name, model)


def settings_identity(config: dict[str, Any], kind: str, seed: int) -> Identity:
    """Of random weights that are made by a class of another library."""
    values = json.dumps([kind, seed, config], sort_keys=True, default=str)
    return {"kind": "random", "architecture": kind, "seed": seed, "sha256": hashlib.sha256(values.encode()).hexdigest()}


def _ends(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(0, size - ENDS_BYTES))
        digest.update(file.read(ENDS_BYTES))
    return digest.hexdigest()

"""MANIFEST.json: the file that makes a folder believable. Written last, checked before every use.

No format of this field notices a flipped bit by itself, so the manifest holds sizes and SHA-256 of every file.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import fsync_file, publish, read_json
from tunestudy.records.hashes import sha256

MANIFEST = "MANIFEST.json"


def seal(prepared: Path, final: Path, facts: dict[str, Any]) -> None:
    """Make a finished folder durable and publish it: fsync files → manifest → fsync → rename → fsync.

    `facts` are stored beside the file list: `kind`, `step`, versions, identity of the base model.
    """
    files = {}
    for path in _files(prepared):
        fsync_file(path)
        files[path.relative_to(prepared).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    manifest = prepared / MANIFEST
    sys.audit("tunestudy.manifest", str(final))
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    fsync_file(manifest)
    fsync_file(prepared)
    publish(prepared, final)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest's facts and files, or None where there is none or it cannot be read."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def problems(folder: Path, *, hashes: bool = True) -> list[str]:
    """What is wrong with a sealed folder, in words; empty when every size (and hash) holds."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder.name} has no readable {MANIFEST}"]
    return list(_file_problems(folder, manifest["files"], hashes=hashes))


def _file_problems(folder: Path, files: dict[str, Any], *, hashes: bool) -> Iterator[str]:
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            yield f"{folder.name}/{name} is missing"
        elif path.stat().st_size != expected["size"]:
            yield f"{folder.name}/{name} has {path.stat().st_size} bytes, the manifest says {expected['size']}"
        elif hashes and sha256(path) != expected["sha256"]:
            yield f"{folder.name}/{name} does not match its SHA-256: the content changed after it was written"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)

"""Which checkpoints of a job are on the disk, for both planes: those that a benchmark's curve can have."""

import re

from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import read_manifest

_NAME = re.compile(r"checkpoint-(\d+)")


def kept_checkpoints(folder: JobDir) -> list[tuple[str, int]]:
    """Name and step of every sealed checkpoint, by step; links that name one by its epoch are left out."""
    if not folder.root.is_dir():
        return []
    found = [
        (path.name, int(match[1]))
        for path in folder.root.glob("checkpoint-*")
        if (match := _NAME.fullmatch(path.name)) and not path.is_symlink() and read_manifest(path) is not None
    ]
    return sorted(found, key=lambda checkpoint: checkpoint[1])

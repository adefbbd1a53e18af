"""What files hold, as hashes."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1(path: Path) -> str:
    """What git names a file's content by: SHA-1 over `blob <size>\\0` and the bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def content_of(path: Path, hash_of: Callable[[Path], str] | None = None) -> Any:
    """A hash of a file, or of every file below a folder by its relative name (hidden ones left out)."""
    hash_of = hash_of or hash_once
    if path.is_file():
        return hash_of(path)
    files = sorted(entry for entry in path.rglob("*") if entry.is_file())
    visible = [entry for entry in files if not any(part.startswith(".") for part in entry.relative_to(path).parts)]
    return {entry.relative_to(path).as_posix(): hash_of(entry) for entry in visible}


def hash_once(path: Path) -> str:
    """SHA-256 of a file, computed again only when its size or time changes."""
    stat = path.stat()
    return _hash(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _hash(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - what the cache remembers it by
    return sha256(path)

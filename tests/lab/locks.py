"""Entries of locks for studies that name things on the hub, without a hub."""

import hashlib
from pathlib import Path

from tunestudy.records.locked import Item, LockedFile


def locked(kind: str, name: str, *parts: str, revision: str | None = None, commit: str = "c0ffee" * 6 + "beef") -> Item:
    """An entry of one file, whose 12 bytes are `of <name>` or cut."""
    data = content(name)
    files = {"config.json": LockedFile(len(data), sha256=hashlib.sha256(data).hexdigest())}
    return Item(kind, name, revision, tuple(sorted(parts)), commit, "2026-01-05T09:30:00Z", files)


def content(name: str) -> bytes:
    return f"of {name}".encode()[:12].ljust(12, b".")


def put_into(cache: Path, *items: Item) -> None:
    """The files of entries made here, as the hub's cache has them."""
    for item in items:
        file = item.folder(cache) / "config.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(item.id))

"""What data sets of all programs have in common: names, places, and the files that they lie in."""

import os
import re
from pathlib import Path
from typing import Any

from tunestudy.study.importing.rules import ImpossibleError, NotNeededError, View, plain

ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".tar")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def slug(name: str, taken: set[str]) -> str:
    """A name for an entry of `datasets:`, of the last part of an id or path; a number tells equal ones apart."""
    last = name.rstrip("/").rpartition("/")[2]
    for ending in ENDINGS:
        last = last.removesuffix(ending)
    base = re.sub(r"[^A-Za-z0-9]+", "_", last).strip("_").lower() or "data"
    base = base if base[0].isalpha() else f"data_{base}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name


def place(written: str, view: View) -> dict[str, Any]:
    """`path:` of a file or folder, seen from the study file, or `name:` of a hub's data set."""
    found = view.found(written)
    if found is not None:
        return {"path": seen_from(view.target, found)}
    if is_path(written):
        return {"path": written}
    return {"name": written}


def is_path(written: str) -> bool:
    return written.endswith(ENDINGS) or written[:1] in ("/", ".", "~") or not _HUB_ID.fullmatch(written)


def seen_from(folder: Path, path: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def held_out(value: Any, _view: View) -> dict[str, Any]:
    """The rule of a key that says which share is held out; 0 for none."""
    if not plain(value):
        raise NotNeededError("nothing is held out")
    return share(value)


def share(value: Any) -> dict[str, Any]:
    """A share of every data set kept from training. A count cannot be told before the data are counted."""
    size = plain(value)
    if isinstance(size, bool) or not isinstance(size, int | float) or size < 0:
        raise ImpossibleError(f"must be a share from 0 and below 1, got {value}")
    if size >= 1:
        raise ImpossibleError(f"is a count, and a study holds out a share: held_out: {value} ÷ the number of records")
    return {"dataset.held_out": size}


def only_named(declaration: dict[str, Any], known: dict[str, str], fallback: str) -> tuple[tuple[str, str], ...]:
    """Keys of a data set's declaration that are set and have no counterpart, with reasons."""
    return tuple(
        (key, known.get(key, fallback)) for key, value in declaration.items() if value not in (None, False, "", [], {})
    )

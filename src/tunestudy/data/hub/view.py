"""One subset of a data set's locked files as a folder of its own.

`datasets` looks at the files of every subset that a card lists before it reads one; those of the others are not here.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from tunestudy.data.hub.choose import DEFAULT, configs_of, default_subset, head_of, subset_files
from tunestudy.records.atomic import replace_bytes, temporary_beside

CARD = "README.md"


def folder_of(snapshot: Path, subset: str | None, views: Path) -> Path:
    """The snapshot itself where it has one subset at most, else a folder of links below `views`, with a card of one.

    Raises NoFilesError for a subset that the card does not list.
    """
    card = snapshot / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else None
    configs = configs_of(text)
    if text is None or len(configs) < 2:
        return snapshot
    name = subset or default_subset(configs)
    found = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    wanted = [file for files in subset_files(found, subset or DEFAULT, configs).values() for file in files]
    view = views / f"{snapshot.parent.parent.name}-{snapshot.name[:12]}" / name
    replace_bytes(view / CARD, _card_of(text, name).encode())
    for file in wanted:
        link = view / file
        link.parent.mkdir(parents=True, exist_ok=True)
        _link(link, (snapshot / file).absolute())
    return view


def _link(link: Path, target: Path) -> None:
    """Absolute: it leads to the hub's cache of this machine, and is made anew on another."""
    if link.is_symlink() and link.readlink() == target:
        return
    made = temporary_beside(link)
    made.symlink_to(target)
    os.replace(made, link)  # whatever other ranks do meanwhile, it is there and whole


def _card_of(text: str, subset: str) -> str:
    """The card's head with what it says of this subset alone."""
    head = head_of(text)
    told: dict[str, Any] = {"configs": [one for one in head["configs"] if one["config_name"] == subset]}
    facts = head.get("dataset_info")
    mine = [one for one in (facts if isinstance(facts, list) else []) if one.get("config_name") == subset]
    if mine:
        told["dataset_info"] = mine
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---\n"

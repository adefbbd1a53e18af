"""Where the hub's libraries keep what they download, and how they are made to stay with it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What `huggingface_hub`, `datasets` and `transformers` look at when they are imported."""
FETCH_FIRST = "`tunestudy fetch STUDY`, where there is a network, brings and locks all that a study reads of the hub"
FOLDERS = {"model": "models", "dataset": "datasets"}
"""Kind of a repository → how the cache's folders of such begin."""


def hub_cache(environment: Mapping[str, str] | None = None) -> Path:
    """Where `huggingface_hub` keeps what it downloads, by the same variables."""
    found = os.environ if environment is None else environment
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if found.get(name):
            return Path(found[name]).expanduser()
    if found.get("HF_HOME"):
        return Path(found["HF_HOME"]).expanduser() / "hub"
    cache = Path(found.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "huggingface" / "hub"


def snapshot_folder(cache: Path, kind: str, repo: str, commit: str) -> Path:
    """Where `huggingface_hub` keeps the files of one commit of a repository."""
    return cache / "--".join((FOLDERS[kind], *repo.split("/"))) / "snapshots" / commit


def stay_offline() -> None:
    """Make the hub's libraries take what is in their cache alone; whoever has set it keeps it."""
    for name in OFFLINE:
        os.environ.setdefault(name, "1")
    read_already = sys.modules.get("huggingface_hub.constants")
    if read_already is not None and os.environ["HF_HUB_OFFLINE"] == "1":
        read_already.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # of a worker that had to import it first

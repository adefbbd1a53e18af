"""Which file of a result or a checkpoint goes where in its repository."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tunestudy.config.sharing import Strategy
from tunestudy.records.manifest import MANIFEST, read_manifest

ADAPTER_CONFIG = "adapter_config.json"
RESUME = "resume/"
LAST = "last-checkpoint"
CARD = "README.md"

Files = dict[str, Path]
"""Path in the repository → file."""


def of_model(folder: Path) -> Files:
    """Every file of a sealed folder as it lies, and its manifest."""
    return {name: folder / name for name in _names(folder)}


def of_checkpoint(folder: Path, strategy: Strategy) -> Files:
    """A checkpoint's files. Weights that stock PEFT reads lie at the top, where the result will be; others apart.

    With `checkpoint` and `all_checkpoints` all of it lies in a folder besides, with what training goes on from.
    """
    names = _names(folder)
    files: Files = {}
    if ADAPTER_CONFIG in names:
        files |= {name: folder / name for name in names if not name.startswith(RESUME) and name != MANIFEST}
    if strategy == "all_checkpoints":
        files |= {f"{folder.name}/{name}": folder / name for name in names}
    elif strategy == "checkpoint":
        files |= {f"{LAST}/{name}": folder / name for name in names}
    elif ADAPTER_CONFIG not in names:  # every_save of gates, of a mixture or of whole weights
        files |= {f"{LAST}/{name}": folder / name for name in names if not name.startswith(RESUME)}
    return files


def no_longer(before: Mapping[str, object], now: Mapping[str, Path]) -> list[str]:
    """Files of an earlier push to the same place that this one does not have: other shards of the same weights."""
    kept = (f"{LAST}/", "checkpoint-", CARD)
    return sorted(name for name in before if name not in now and not name.startswith(kept))


def left_over(before: Iterable[str], now: Mapping[str, Path]) -> list[str]:
    """Files of earlier saves in the folder of the last checkpoint, where this save lies now and does not have them."""
    folder = f"{LAST}/"
    if not any(name.startswith(folder) for name in now):
        return []
    return sorted({name for name in before if name.startswith(folder) and name not in now})


def _names(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    assert manifest is not None, "checked before"
    return [*manifest["files"], MANIFEST]

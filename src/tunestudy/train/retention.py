"""Which checkpoints stay on the disk: done with here, decided in `records/kept.py`, which `clean` shares."""

from collections.abc import Collection, Sequence
from pathlib import Path

from tunestudy.config.stage import CheckpointSettings
from tunestudy.records.atomic import point_to, remove_tree
from tunestudy.records.kept import StoredCheckpoint, find_checkpoints, ranked, to_keep
from tunestudy.records.layout import JobDir


def prune(folder: JobDir, settings: CheckpointSettings, pinned: Collection[str], *, finished: bool = False) -> None:
    """Point `last` and `best` at what they name, then delete what need not stay."""
    found = find_checkpoints(folder.root)
    if found:
        point_to(folder.last, found[-1].name)
    if best := ranked(found, settings.metric_for_best_model):
        point_to(folder.best, best[0].name)
    keep = to_keep(found, settings, pinned, finished=finished)
    if settings.checkpoint_names == "epoch_step":
        name_by_epoch(folder.root, [checkpoint for checkpoint in found if checkpoint.name in keep])
    for checkpoint in found:
        if checkpoint.name not in keep:
            remove_tree(folder.root / checkpoint.name)


def name_by_epoch(root: Path, kept: Sequence[StoredCheckpoint]) -> None:
    """Links `checkpoint-epoch1-step500` to the checkpoints that stay; those to others go first, so none dangles."""
    wanted = {f"checkpoint-{checkpoint.label}": checkpoint.name for checkpoint in kept if checkpoint.label}
    for link in root.glob("checkpoint-epoch*"):
        if link.is_symlink() and link.name not in wanted:
            link.unlink()
    for name, target in wanted.items():
        point_to(root / name, target)

"""Which checkpoints of a job are on the disk, and which of them stay, for both planes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunestudy.config.stage import CheckpointSettings
from tunestudy.records.listing import entries
from tunestudy.records.manifest import read_manifest


@dataclass(frozen=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint on the disk, as its manifest describes it."""

    name: str
    step: int
    kind: str
    metrics: Mapping[str, float]
    label: str = ""
    """Its name by epoch."""


def find_checkpoints(root: Path) -> list[StoredCheckpoint]:
    """All checkpoints with a readable manifest, by step. Whether their content holds is another question."""
    found = []
    for path in entries(root, "checkpoint-"):
        manifest = None if path.is_symlink() else read_manifest(path)
        if manifest is not None and isinstance(manifest.get("step"), int):
            one = StoredCheckpoint(
                name=path.name,
                step=manifest["step"],
                kind=str(manifest.get("kind")),
                metrics=manifest.get("metrics") or {},
                label=str(manifest.get("label") or ""),
            )
            found.append(one)
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def ranked(found: Sequence[StoredCheckpoint], metric: str) -> list[StoredCheckpoint]:
    """Checkpoints that were measured, the lowest value first; of equals the earlier."""
    measured = [checkpoint for checkpoint in found if metric in checkpoint.metrics]
    return sorted(measured, key=lambda checkpoint: (checkpoint.metrics[metric], checkpoint.step))


def to_keep(
    found: Sequence[StoredCheckpoint], settings: CheckpointSettings, pinned: Collection[str], *, finished: bool = False
) -> set[str]:
    """Names that stay: pinned ones, the best k, and the last N of all and of the full ones (to resume from).

    After the stage, with `drop_intermediate`, only pinned ones, the very last and the best.
    """
    newest_first = sorted(found, key=lambda checkpoint: -checkpoint.step)
    dropping = finished and settings.drop_intermediate
    last = 1 if dropping else settings.save_total_limit
    best = max(settings.save_best_k, 1 if settings.load_best_model_at_end else 0)
    kept = newest_first[:last] + ranked(found, settings.metric_for_best_model)[: min(best, 1) if dropping else best]
    if not dropping:
        kept += [checkpoint for checkpoint in newest_first if checkpoint.kind == "full"][:last]
    return {checkpoint.name for checkpoint in kept} | (set(pinned) & {checkpoint.name for checkpoint in found})

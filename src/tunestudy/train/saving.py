"""When a checkpoint is due, and taking it from a run that goes on."""

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunestudy.config.stage import CheckpointSettings
from tunestudy.models.stored import by_file
from tunestudy.records.layout import JobDir
from tunestudy.records.tables import TableLog
from tunestudy.train.checkpoint import (
    OPTIMIZER,
    STATE,
    FlatCopy,
    Kind,
    Snapshot,
    adapter_config_text,
    optimizer_tensors,
    tensor_facts,
    weights_of,
)
from tunestudy.train.metrics import TrainState
from tunestudy.train.precision import Precision
from tunestudy.train.shards import Held, WholeCopy
from tunestudy.train.trainable import Trainable
from tunestudy.train.writer import CheckpointWriter


def checkpoint_due(settings: CheckpointSettings, step: int, *, epoch_ends: bool, improved: bool) -> Kind | None:
    """What to save after `step`.

    improved: the evaluation at this step is the best so far. With `load_best_model_at_end` that is always saved, so
    that the published weights depend on evaluations alone and not on the cadence of saving.
    """
    ends = epoch_ends and settings.save_on_epoch_end
    if _on_beat(step, settings.full_save_steps) or (ends and settings.checkpoint_mode == "full"):
        return "full"
    if _on_beat(step, settings.save_steps) or ends or (improved and settings.load_best_model_at_end):
        return "lite"
    return None


def _on_beat(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A checkpoint as the loop remembers it."""

    step: int
    kind: Kind
    metrics: Mapping[str, float]


class Saver:
    """Takes snapshots of a run and hands them to the writer; `save` blocks the loop only for copying to host memory.

    Ranks hold equal weights and optimiser states, or slices that are gathered to rank 0 first; random numbers are a
    function of the step: rank 0 alone has all there is to save.
    """

    def __init__(
        self,
        folder: JobDir,
        settings: CheckpointSettings,
        *,
        model: Any,
        trainables: Sequence[Trainable],
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        pinned: Collection[str],
        logs: Sequence[TableLog],
        facts: Mapping[str, Any],
        cut: Mapping[str, int],
        writes: bool,
        gather_group: Any = None,
    ) -> None:
        """facts: what every manifest tells. cut: world size and micro-batches, which a resumed run may change."""
        self._trainables = trainables
        self._optimizer = optimizer
        self._precision = precision
        self._facts = facts
        self._cut = cut
        self._texts = adapter_config_text(model, folder.root)
        self._gather_group = gather_group
        self._publishes_best = settings.load_best_model_at_end
        self._weights = self._copy_for(weights_of(trainables))
        self._optimizer_copy: FlatCopy | WholeCopy | None = None
        self._writer = CheckpointWriter(folder, settings, pinned, logs) if writes else None
        self.newest: Taken | None = None
        """The checkpoint that was taken last, or that the run was resumed from."""

    def save(self, kind: Kind, state: TrainState, *, metrics: Mapping[str, float], label: str) -> None:
        """Take a checkpoint after `state.step`; raises what went wrong with the one before."""
        again = self.newest is not None and self.newest.step == state.step
        is_best = state.best is not None and state.best.step == state.step
        self.newest = Taken(step=state.step, kind=kind, metrics=metrics)
        began = time.perf_counter()
        if self._writer is None:
            if self._gather_group is not None:
                self._give(kind)
                state.save_s += time.perf_counter() - began
            return
        self._writer.wait()
        files = by_file(self._weights.take(weights_of(self._trainables)))
        facts = {**self._facts, "kind": kind, "step": state.step, "metrics": metrics, "label": label}
        facts["tensors"] = tensor_facts(files)
        texts = dict(self._texts)
        if kind == "full":
            files[OPTIMIZER] = self._copy_of_optimizer()
            resume = {"state": state.as_json(), "scaler": self._precision.state(), "cut": self._cut}
            texts[STATE] = json.dumps(resume, allow_nan=False) + "\n"
        needed = self._publishes_best and is_best and not again
        taken = Snapshot(step=state.step, kind=kind, tensors=files, texts=texts, facts=facts, needed=needed)
        self._writer.submit(taken)
        state.save_s += time.perf_counter() - began

    def check(self) -> None:
        """Raise what went wrong in the background since the last call."""
        if self._writer is not None:
            self._writer.check()

    def finish(self) -> None:
        """Wait until everything is on the disk."""
        if self._writer is not None:
            self._writer.wait()

    def gave_up(self, step: int) -> bool:
        """Whether the checkpoint of `step` found no space, once all is written; only the rank that writes knows."""
        self.finish()
        return self._writer is not None and step in self._writer.given_up

    def close(self) -> None:
        """`finish` and end the writer's thread."""
        if self._writer is not None:
            self._writer.close()

    def _copy_of_optimizer(self) -> dict[str, torch.Tensor]:
        tensors = optimizer_tensors(self._optimizer, self._trainables)
        if self._optimizer_copy is None or not self._optimizer_copy.holds(tensors):
            self._optimizer_copy = self._copy_for(tensors)
        return self._optimizer_copy.take(tensors)

    def _give(self, kind: Kind) -> None:
        """This rank's slices, to rank 0."""
        self._weights.take(weights_of(self._trainables))
        if kind == "full":
            self._copy_of_optimizer()

    def _copy_for(self, tensors: Mapping[str, Held]) -> FlatCopy | WholeCopy:
        return FlatCopy(tensors) if self._gather_group is None else WholeCopy(tensors, self._gather_group)

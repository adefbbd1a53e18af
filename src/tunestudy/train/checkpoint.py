"""What a checkpoint holds and how it is written.

A lite checkpoint is the trainable tensors, nothing else: an adapter's in PEFT's own files, loadable by stock PEFT, all
others under the model's names. A full one adds `resume/`. Neither calls `state_dict()`, so frozen weights are never
touched. The loop only copies tensors into one host buffer; files are written by `writer.py` in the background.
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunestudy.models.fold import GATED_CONFIG, has_gates, plain_config, raw_config_text
from tunestudy.models.mole import mole_of
from tunestudy.models.mole_files import mole_config
from tunestudy.models.stored import ADAPTER_CONFIG, MOLE_CONFIG
from tunestudy.records.atomic import temporary_beside
from tunestudy.records.manifest import seal
from tunestudy.train.shards import Held, held
from tunestudy.train.trainable import Trainable

OPTIMIZER = "resume/optimizer.safetensors"
STATE = "resume/state.json"

Kind = Literal["lite", "full"]
Tensors = dict[str, Tensor]


class NotFiniteError(FloatingPointError):
    """Weights hold NaN or infinity, so no checkpoint may hold them."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A checkpoint in memory: what stands in each file, and the manifest's facts."""

    step: int
    kind: Kind
    tensors: dict[str, Tensors]
    """File → tensors."""
    texts: dict[str, str]
    """File → content."""
    facts: dict[str, Any]
    needed: bool = False
    """Whether the stage cannot end without it: the best one so far, whose weights may be published."""


class FlatCopy:
    """Host copies of a fixed set of tensors in one buffer per dtype, made anew by each `take`."""

    def __init__(self, given: Mapping[str, Held]) -> None:
        tensors = whole_ones(given)
        self._views: Tensors = {}
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        for dtype in {tensor.dtype: None for tensor in tensors.values()}:
            members = {name: tensor for name, tensor in tensors.items() if tensor.dtype is dtype}
            sizes = [tensor.numel() for tensor in members.values()]
            flat = torch.empty(sum(sizes), dtype=dtype, pin_memory=on_gpu)
            for (name, tensor), part in zip(members.items(), torch.split(flat, sizes), strict=True):
                self._views[name] = part.view(tensor.shape)

    def holds(self, tensors: Mapping[str, Held]) -> bool:
        """Whether the buffers fit these tensors: an optimiser's state may appear only with the first gradient."""
        return tensors.keys() == self._views.keys()

    @torch.no_grad()
    def take(self, given: Mapping[str, Held]) -> Tensors:
        """Copies of tensors by name. The next `take` overwrites them: write them out before."""
        assert self.holds(given)
        tensors = whole_ones(given)
        sources = [tensors[name] for name in self._views]
        if sources:  # the state of plain SGD is empty
            torch._foreach_copy_(list(self._views.values()), sources)
        return dict(self._views)


def whole_ones(given: Mapping[str, Held]) -> Tensors:
    """The tensors of a rank that holds them whole."""
    return {name: tensor for name, tensor in given.items() if isinstance(tensor, Tensor)}


def weights_of(trainables: Iterable[Trainable]) -> dict[str, Held]:
    """What this rank holds of the trainable tensors, by the model's names."""
    return {trainable.name: held(trainable.parameter) for trainable in trainables}


def optimizer_tensors(optimizer: torch.optim.Optimizer, trainables: Iterable[Trainable]) -> dict[str, Held]:
    """The optimiser's state as `<key>:<parameter name>` → tensor; plain numbers become tensors of no dimension."""
    state = optimizer.state
    return {
        f"{key}:{trainable.name}": torch.tensor(value) if isinstance(value, int | float) else value
        for trainable in trainables
        for key, value in state.get(trainable.parameter, {}).items()
        if isinstance(value, Held | int | float)
    }


def tensor_facts(files: Mapping[str, Tensors]) -> dict[str, list[Any]]:
    """Name → [shape, dtype] of every weight, for the manifest."""
    return {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for tensors in files.values()
        for key, tensor in tensors.items()
    }


def adapter_config_text(model: Any, root: Path) -> dict[str, str]:
    """adapter_config.json, that of the raw form with gates, or a mixture's, for a checkpoint in `root`; {} without an
    adapter.

    Sets are written in sorted order, so that the same adapter gives the same bytes in every process, and a base on this
    machine by its path from the checkpoint, so that results can be moved.
    """
    if mole_of(model) is not None:
        facts = mole_config(model, root / "checkpoint")
        return {MOLE_CONFIG: json.dumps(facts, indent=2) + "\n"}
    config = getattr(model, "peft_config", {}).get("default")
    if config is None:
        return {}
    values = plain_config(config)
    base = Path(str(values["base_model_name_or_path"] or ""))
    if base.is_absolute():
        values["base_model_name_or_path"] = os.path.relpath(base, root.resolve() / "checkpoint")
    values["inference_mode"] = True
    if has_gates(model):
        return {GATED_CONFIG: raw_config_text(values, use_dora=config.use_dora)}
    return {ADAPTER_CONFIG: json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"}


def write_checkpoint(snapshot: Snapshot, final: Path) -> None:
    """Write, make durable and publish one checkpoint; nothing is left behind when that fails."""
    _require_finite(snapshot)
    prepared = temporary_beside(final)
    try:
        prepared.mkdir(parents=True)
        for file, tensors in snapshot.tensors.items():
            (prepared / file).parent.mkdir(exist_ok=True)
            save_file(tensors, prepared / file, metadata={"format": "pt"})
        for file, text in snapshot.texts.items():
            (prepared / file).parent.mkdir(exist_ok=True)
            (prepared / file).write_text(text, encoding="utf-8")
        seal(prepared, final, snapshot.facts)
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise


def size_of(snapshot: Snapshot) -> int:
    """Bytes of its tensors, which are nearly all of it."""
    return sum(tensor.nbytes for tensors in snapshot.tensors.values() for tensor in tensors.values())


def _require_finite(snapshot: Snapshot) -> None:
    weights = [tensors for file, tensors in snapshot.tensors.items() if file != OPTIMIZER]
    broken = [
        name
        for tensors in weights
        for name, tensor in tensors.items()
        if not math.isfinite(float(tensor.sum(dtype=torch.float64)))
    ]
    if broken:
        raise NotFiniteError(f"after step {snapshot.step} these weights are not finite: {', '.join(broken[:8])}")

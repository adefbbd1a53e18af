"""Finding the newest checkpoint that can be believed, and putting a run back to where it was written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tunestudy.models.stored import by_file
from tunestudy.records.atomic import remove_tree
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest
from tunestudy.train.checkpoint import OPTIMIZER, STATE, weights_of
from tunestudy.train.optim import load_states
from tunestudy.train.shards import Held, put
from tunestudy.train.trainable import Trainable

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError)
"""What reading a damaged file raises; safetensors' own error is an Exception of no narrower kind (see `_opened`)."""


def find_start(
    folder: JobDir, trainables: Sequence[Trainable], *, fingerprint: str, base: Mapping[str, Any]
) -> tuple[int, list[str]]:
    """The step of the newest full checkpoint that holds, or 0, and a message for every one that was passed over."""
    messages: list[str] = []
    for path in sorted(_checkpoints(folder), key=_step_in_name, reverse=True):
        manifest = read_manifest(path)
        if manifest is not None and manifest.get("kind") != "full":
            continue  # lite: meant for use, not for resuming
        found = checkpoint_problems(path, trainables, fingerprint=fingerprint, base=base)
        if not found and manifest is not None:
            return int(manifest["step"]), messages
        messages.append(f"{path.name} is not used: {'; '.join(found[:3])}")
    return 0, messages


def checkpoint_problems(
    path: Path, trainables: Sequence[Trainable], *, fingerprint: str, base: Mapping[str, Any]
) -> list[str]:
    """Why a full checkpoint cannot be resumed from; empty when sizes, hashes, origin and every tensor hold."""
    if found := problems(path):
        return found
    manifest = read_manifest(path) or {}
    if manifest.get("fingerprint") != fingerprint:
        return [f"it belongs to another job ({str(manifest.get('fingerprint'))[:12]})"]
    if manifest.get("base") != json.loads(json.dumps(base)):
        return ["it was trained on another base model"]
    if missing := [file for file in (OPTIMIZER, STATE) if file not in manifest["files"]]:
        return [f"{' and '.join(missing)} missing"]
    return list(weight_problems(path, trainables))


def weight_problems(path: Path, trainables: Sequence[Trainable]) -> Iterator[str]:
    """Trainable tensors that a checkpoint lacks, or holds in another shape or with values that are not finite."""
    for file, expected in by_file(weights_of(trainables)).items():
        try:
            stored = _opened(path / file)
        except UNREADABLE as error:
            yield f"{file} cannot be read: {error}"
            continue
        yield from _tensor_problems(file, expected, stored)


def _tensor_problems(file: str, expected: Mapping[str, Held], stored: Mapping[str, Tensor]) -> Iterator[str]:
    if not stored:
        yield f"{file} holds no tensors"
        return
    for name, tensor in expected.items():
        if name not in stored:
            yield f"{file} lacks {name}"
        elif stored[name].shape != tensor.shape:
            yield f"{name} has shape {tuple(stored[name].shape)}, not {tuple(tensor.shape)}"
        elif not torch.isfinite(stored[name]).all():
            yield f"{name} holds values that are not finite"
    for name in stored.keys() - expected.keys():
        yield f"{file} holds {name}, which this stage does not train"


def _opened(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(path.name)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:
        raise ValueError(str(error)) from error


def drop_newer(folder: JobDir, step: int) -> None:
    """Delete checkpoints of steps after `step`: the run makes them again, bit for bit."""
    for path in _checkpoints(folder):
        if _step_in_name(path) > step:
            remove_tree(path)
    for link in folder.root.glob("checkpoint-epoch*"):
        if link.is_symlink() and not link.exists():
            link.unlink()


def load_weights(path: Path, trainables: Sequence[Trainable]) -> None:
    """Copy a checkpoint's tensors into the model."""
    with torch.no_grad():
        for file, parameters in by_file({t.name: t.parameter for t in trainables}).items():
            stored = load_file(path / file)
            for key, parameter in parameters.items():
                put(parameter, stored[key])


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer, trainables: Sequence[Trainable]) -> None:
    """Give the optimiser the state that `optimizer_tensors` took from it."""
    states: dict[str, dict[str, Tensor]] = {}
    for key_and_name, tensor in load_file(path / OPTIMIZER).items():
        key, name = key_and_name.split(":", 1)
        states.setdefault(name, {})[key] = tensor
    load_states(optimizer, states, trainables)


def load_state(path: Path) -> dict[str, Any]:
    """resume/state.json."""
    values: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return values


def _checkpoints(folder: JobDir) -> list[Path]:
    """Not the links that name them by epoch."""
    return [path for path in folder.root.glob("checkpoint-*") if not path.is_symlink()]


def _step_in_name(path: Path) -> int:
    digits = path.name.removeprefix("checkpoint-")
    return int(digits) if digits.isdigit() else -1

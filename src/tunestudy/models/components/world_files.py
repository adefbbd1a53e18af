"""A world part on disk: its own few tensors and settings, and which model it belongs to."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import ModelConfig
from tunestudy.config.world import WorldSettings
from tunestudy.models.components.world_install import install_world
from tunestudy.models.components.world_projector import WorldEmbedding, world_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.identity import base_identity
from tunestudy.models.origin import Origin, origin_of_base, pretrained
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.manifest import MANIFEST, problems

WEIGHTS, FACTS = "world.safetensors", "world.json"
_LEARNS = ("world_projector.", "world_borders.")


def save_world(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write what learns, and what it belongs to; neither the base nor the encoder.

    Folders on this machine are named relative to `folder`, so that results can be moved. `state`: whole tensors by the
    model's names, where this process holds slices only.
    """
    from safetensors.torch import save_file

    part = world_of(model)
    assert part is not None, "a model without a world part"
    prefix = next(name for name, module in model.named_modules() if module is part)
    own = {name: tensor for name, tensor in part.named_parameters() if name.startswith(_LEARNS)}
    tensors = own if state is None else {name: state[f"{prefix}.{name}"] for name in own}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    write_json(folder / FACTS, _facts(base_model_of(model), part, folder.resolve()))


def _facts(base: Any, part: WorldEmbedding, folder: Path) -> dict[str, Any]:
    """The content of world.json."""
    settings = part.settings.model_dump(mode="json", exclude={"device"})
    if part.encoder.folder is not None:
        settings["encoder"]["model_name_or_path"] = os.path.relpath(part.encoder.folder, folder)
    name = Path(base.name_or_path)
    local = name.is_absolute()
    return {
        "settings": settings,
        "encoder": part.encoder.identity,
        "seed": part.seed,
        "base_model_name_or_path": os.path.relpath(name, folder) if local else str(name),
        "revision": None if local else getattr(base.config, "_commit_hash", None),
        "base": base_identity(str(name), base),
        "dtype": str(part.weight.dtype).removeprefix("torch."),
    }


def load_world(
    folder: str | Path, *, device: torch.device | str = "cpu", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """(model, tokenizer) of a published world part: its base, by hub id or relative path, and the part on it.

    StudyError for files that are damaged or missing, and for a base or an encoder other than it learnt with.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    wrong = problems(folder) if (folder / MANIFEST).is_file() else []
    if wrong:
        raise _broken(folder, "; ".join(wrong[:3]))
    facts = world_facts(folder)
    origin = base_origin(folder, facts)
    settings = ModelConfig(model_name_or_path=origin.name, dtype=facts["dtype"], trust_remote_code=trust_remote_code)
    model = pretrained(origin, settings, device)
    identity = base_identity(origin.name, model)
    if identity != facts["base"]:
        raise _broken(folder, f"{origin.name} is not the model it was trained on")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    put_world(model, tokenizer, folder)
    return model.eval(), tokenizer


def world_facts(folder: Path) -> dict[str, Any]:
    """world.json."""
    facts = read_json(folder / FACTS)
    if not isinstance(facts, dict):
        raise _broken(folder, f"{FACTS} is missing or no JSON object")
    return facts


def base_origin(folder: Path, facts: Mapping[str, Any]) -> Origin:
    """Where the base of a world part lies; StudyError when its folder is gone."""
    origin = origin_of_base(folder, facts)
    if origin is None:
        gone = facts["base_model_name_or_path"]
        raise _broken(folder, f"{FACTS} names {gone} as its base, and that folder is gone")
    return origin


def put_world(model: Any, tokenizer: Any, folder: Path, *, device: str | None = None) -> None:
    """Install a published world part on its base; `device`: of the encoder."""
    facts = world_facts(folder)
    settings = WorldSettings.model_validate({**facts["settings"], "device": device})
    install_world(model, tokenizer, settings, seed=facts["seed"], base_dir=folder)
    part = world_of(model)
    assert part is not None
    if part.encoder.identity != facts["encoder"]:
        raise _broken(folder, "the encoder that it names is not the one it was trained with")
    _fill(part, folder)


def _fill(part: WorldEmbedding, folder: Path) -> None:
    """The stored tensors into the part; every one must be there, in its shape and finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    own = {name: tensor for name, tensor in part.named_parameters() if name.startswith(_LEARNS)}
    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _broken(folder, f"{WEIGHTS} cannot be read: {error}") from error
    for name in sorted(own.keys() | stored.keys()):
        if name not in stored or name not in own:
            raise _broken(folder, f"{WEIGHTS} {'lacks' if name in own else 'holds an unknown'} {name}")
        if stored[name].shape != own[name].shape or not bool(torch.isfinite(stored[name]).all()):
            raise _broken(folder, f"{name} in {WEIGHTS} has another shape, or values that are not finite")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(stored[name])


def _broken(folder: Path, message: str) -> StudyError:
    return StudyError(at(str(folder.name)), f"the world part in {folder}: {message}", exit_code=Exit.PREFLIGHT_REFUSED)

"""A mixture of LoRA experts on disk: its experts, its gates, and which model it belongs to.

    from tunestudy.models.mole_files import load_mole
    model, tokenizer = load_mole("results/my-study/jobs/…/model")

Gates that read the tokens have a format of their own, which stock PEFT does not look for. Those of kind `layer` are
constant: such a mixture is published as one plain LoRA adapter, its raw form laid into a folder beside.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.model import ModelConfig
from tunestudy.models.decoder import base_model_of
from tunestudy.models.fold import ROOT
from tunestudy.models.identity import base_identity, folder_identity, hub_identity
from tunestudy.models.mole import Mole, MoleLinear, mole_of, put_mole
from tunestudy.models.origin import Origin, origin_of_base, pretrained
from tunestudy.models.roles import is_mixture_gate
from tunestudy.models.stored import ADAPTER_WEIGHTS, MOLE_CONFIG, MOLE_WEIGHTS
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.manifest import MANIFEST, problems

RAW_MOLE = "mole"
"""Folder of the raw form, within a published adapter that a mixture was folded into."""
FORMAT = 1


def save_mole(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> str:
    """Write a model's mixture, without its base, into `folder`; returns the kind of result: `adapter` where its gates
    are constant and it was folded, else `mole`.

    state: whole tensors by the model's names, where this process holds slices only; what it lacks is the model's own.
    """
    mole = _required(model)
    if mole.settings.gate != "layer":
        _save_raw(model, folder, state)
        return "mole"
    _save_folded(model, mole, folder, state)
    (folder / RAW_MOLE).mkdir()
    _save_raw(model, folder / RAW_MOLE, state)
    return "adapter"


def _save_raw(model: Any, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    from safetensors.torch import save_file

    tensors = tensors_of(_required(model), state)
    save_file(tensors, folder / MOLE_WEIGHTS, metadata={"format": "pt"})
    write_mole_config(model, folder)


def tensors_of(mole: Mole, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All of a mixture by the model's names, on the CPU."""
    given = {} if state is None else state
    return {name: given.get(name, own).detach().cpu().contiguous() for name, own in mole.parameters()}


def write_mole_config(model: Any, folder: Path) -> None:
    write_json(folder / MOLE_CONFIG, mole_config(model, folder))


def mole_config(model: Any, folder: Path) -> dict[str, Any]:
    """What a mixture consists of, and its base: by hub id, or relative to `folder`, so that results can be moved."""
    mole, base = _required(model), base_model_of(model)
    name = Path(base.name_or_path)
    local = name.is_absolute()
    return {
        "format": FORMAT,
        "experts": list(mole.experts),
        "ranks": {layer: list(ranks) for layer, ranks in mole.ranks.items()},
        "settings": mole.settings.model_dump(mode="json"),
        "base_model_name_or_path": os.path.relpath(name, folder.resolve()) if local else str(name),
        "revision": None if local else getattr(base.config, "_commit_hash", None),
        "base": base_identity(str(name), base),
        "dtype": str(base.dtype).removeprefix("torch."),
    }


def _required(model: Any) -> Mole:
    mole = mole_of(model)
    assert mole is not None, "a model without a mixture"
    return mole


def _save_folded(model: Any, mole: Mole, folder: Path, state: Mapping[str, Tensor] | None) -> None:
    """PEFT's files of the one LoRA that a mixture with constant gates is."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    base = base_model_of(model)
    name = Path(base.name_or_path)
    tensors, ranks = folded(mole, state)
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=list(ranks),
        rank_pattern=ranks,
        alpha_pattern={layer: float(rank) for layer, rank in ranks.items()},
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=os.path.relpath(name, folder.resolve()) if name.is_absolute() else str(name),
        revision=None if name.is_absolute() else getattr(base.config, "_commit_hash", None),
    )
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)


@torch.no_grad()
def folded(mole: Mole, state: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Constant gates multiplied into B: a LoRA's tensors by PEFT's names with scale 1, and the rank of each layer.

    Experts whose share is zero are left out. PEFT knows no rank of zero: a layer without any keeps one of zeros.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    whole = tensors_of(mole, state)
    shares = {block: gate.constant().cpu() for block, gate in mole.gates.items()}
    for name, layer in mole.layers.items():
        block = next(block for block in shares if name.startswith(f"{block}."))
        down, up = _folded_layer(layer, whole[f"{name}.lora_A"], whole[f"{name}.lora_B"], shares[block])
        tensors[f"{ROOT}{name}.lora_A.weight"], tensors[f"{ROOT}{name}.lora_B.weight"] = down, up
        ranks[name] = len(down)
    return tensors, ranks


def _folded_layer(layer: MoleLinear, down: Tensor, up: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    share_of_rank = torch.repeat_interleave(shares, torch.tensor(layer.ranks))
    keep = (share_of_rank != 0).nonzero().squeeze(1)
    if len(keep) == 0:
        return down.new_zeros(1, down.shape[1]), up.new_zeros(up.shape[0], 1)
    return down[keep].contiguous(), (up * share_of_rank)[:, keep].contiguous()


def load_mole(
    folder: str | Path, *, device: torch.device | str = "cpu", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """(model, tokenizer) of a published mixture: its base, by hub id or relative path, and the experts on it.

    StudyError for files that are damaged or missing, and for a base other than the one it learnt on.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    wrong = problems(folder) if (folder / MANIFEST).is_file() else []
    if wrong:
        raise _broken(folder, "; ".join(wrong[:3]))
    raw = raw_folder(folder)
    facts = mole_facts(raw)
    origin = mole_base_origin(raw)
    settings = ModelConfig(model_name_or_path=origin.name, dtype=facts["dtype"], trust_remote_code=trust_remote_code)
    model = pretrained(origin, settings, device)
    identity = base_identity(origin.name, model)
    if identity != facts["base"]:
        raise _broken(folder, f"{origin.name} is not the model it was trained on")
    put_saved(model, raw, trainable=False)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def raw_folder(folder: Path) -> Path:
    """Where a published mixture's own files are: in the folder, or beside the adapter that it was folded into."""
    return folder if (folder / MOLE_CONFIG).is_file() else folder / RAW_MOLE


def holds_mole(folder: Path) -> bool:
    """Whether a published result is a mixture, folded or not."""
    return (raw_folder(folder) / MOLE_CONFIG).is_file()


def mole_facts(folder: Path) -> dict[str, Any]:
    """mole_config.json."""
    facts = read_json(folder / MOLE_CONFIG)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise _broken(folder, f"{MOLE_CONFIG} is missing, or of another version of tunestudy")
    return facts


def mole_base_origin(folder: Path) -> Origin:
    """Where the base of a mixture lies; StudyError when its folder is gone."""
    facts = mole_facts(folder)
    origin = origin_of_base(folder, facts)
    if origin is None:
        gone = facts["base_model_name_or_path"]
        raise _broken(folder, f"{MOLE_CONFIG} names {gone} as its base, and that folder is gone")
    return origin


def sits_on_its_base(model: Any, folder: Path) -> bool:
    """Whether `model`, plain, is the one that the mixture in `folder` was trained on, as far as one can tell: weights
    that were drawn in memory have no name."""
    if not model.name_or_path:
        return True
    name = Path(model.name_or_path)
    identity = folder_identity(name) if name.is_dir() else hub_identity(str(name), model)
    return bool(identity == mole_facts(folder)["base"])


def put_saved(model: Any, folder: Path, *, trainable: bool, settings: MoleAdapter | None = None) -> Mole:
    """Put a mixture that `save_mole` or a checkpoint wrote on its base; nothing but it learns, and it only if asked.

    settings: those of a stage that trains it on, of the same shape; default: its own. StudyError for a tensor that is
    missing, of another shape or not finite.
    """
    facts = mole_facts(folder)
    try:
        own = MoleAdapter.model_validate(facts["settings"]) if settings is None else settings
    except (ValidationError, KeyError) as error:
        raise _broken(folder, f"{MOLE_CONFIG} does not describe a mixture: {error}") from error
    if absent := sorted(name for name in facts["ranks"] if not _has(model, name)):
        raise _broken(folder, f"the model has no {absent[0]}: it is not the one that the mixture belongs to")
    mole = put_mole(model, own, facts["ranks"])
    _fill(dict(mole.parameters()), folder)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in mole.parameters():
        parameter.requires_grad_(trainable and (own.train_experts or is_mixture_gate(name)))
    return mole


def _has(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), nn.Module)
    except AttributeError:
        return False


@torch.no_grad()
def _fill(own: Mapping[str, nn.Parameter], folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(folder / MOLE_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise _broken(folder, f"{MOLE_WEIGHTS} cannot be read: {error}") from error
    for name in sorted(own.keys() | stored.keys()):
        if name not in stored or name not in own:
            raise _broken(folder, f"{MOLE_WEIGHTS} {'lacks' if name in own else 'holds an unknown'} {name}")
        if stored[name].shape != own[name].shape or not bool(torch.isfinite(stored[name]).all()):
            raise _broken(folder, f"{name} in {MOLE_WEIGHTS} has another shape, or values that are not finite")
    for name, parameter in own.items():
        parameter.copy_(stored[name])


def _broken(folder: Path, message: str) -> StudyError:
    return StudyError(at(folder.name), f"the mixture in {folder}: {message}", exit_code=Exit.PREFLIGHT_REFUSED)

"""Writing models so that stock `from_pretrained` reads them."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tunestudy.models.components.world import save_world, world_of
from tunestudy.models.decoder import base_model_of
from tunestudy.models.fold import RAW, START, fold, has_gates, joined, write_raw
from tunestudy.models.mole import mole_of
from tunestudy.models.mole_files import save_mole
from tunestudy.models.stored import ADAPTER_WEIGHTS
from tunestudy.models.vision import save_processor
from tunestudy.records.atomic import temporary_beside
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.manifest import problems, seal


def save_result(
    model: Any, tokenizer: Any, prepared: Path, state: Mapping[str, Tensor] | None = None, processor: Any = None
) -> dict[str, Any]:
    """Write a stage's result into `prepared`, a folder beside its final place; returns the manifest's `kind`.

    An adapter (PEFT's own files) names its base by hub id or by a path relative to the adapter's folder:
    `PeftModel.from_pretrained(base, folder)` needs nothing more. Otherwise a full model in safetensors, tied weights
    once. Of a model with a world part, that part alone; of one with a mixture of experts, the mixture, folded into an
    adapter where its gates are constant. The tokenizer and its chat template lie beside all of them.
    `state`: the whole tensors by the model's names, where this process holds slices only; of an adapter, a mixture or a
    world part, those that were trained.
    """
    has_adapter = hasattr(model, "peft_config")  # importing PEFT to ask would take longer than saving
    kind = "world" if world_of(model) is not None else "adapter" if has_adapter else "full"
    prepared.mkdir(parents=True, exist_ok=True)
    if mole_of(model) is not None:
        kind = save_mole(model, prepared, state)
    elif kind == "world":
        save_world(model, prepared, state)
    elif kind == "adapter":
        save_adapter(model, prepared, state)
    else:
        model.save_pretrained(prepared, safe_serialization=True, state_dict=state)
    tokenizer.save_pretrained(prepared)
    if processor is not None:
        save_processor(processor, base_model_of(model).config.model_type, prepared)
    return {"kind": kind}


def save_adapter(model: Any, prepared: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """PEFT's files of the adapter `default`. One with gates is folded, its raw form laid into a folder beside.

    RuntimeError when PEFT would leave a tensor of `state` out: it recognises them by the modules that they belong to.
    """
    config = model.peft_config["default"]
    before = config.base_model_name_or_path
    base = Path(before or model.get_base_model().name_or_path)  # PEFT fills in None only while it saves
    if base.is_absolute():
        config.base_model_name_or_path = os.path.relpath(base, prepared.resolve())
    try:
        if has_gates(model):
            _save_gated(model, config, prepared, state)
        elif START in model.peft_config:
            trained, start = _state_of(model, "default", state), _state_of(model, START, state)
            _save_files(*joined(trained, start, config), prepared)
        else:
            model.save_pretrained(
                prepared, selected_adapters=["default"], save_embedding_layers=False, state_dict=state
            )
            _require_all(prepared / ADAPTER_WEIGHTS, state)
    finally:
        config.base_model_name_or_path = before
    (prepared / "README.md").unlink(missing_ok=True)  # PEFT's model card template with nothing filled in


def _require_all(file: Path, state: Mapping[str, Tensor] | None) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as saved:
        count = len(saved.keys())
    if state is not None and count != len(state):
        raise RuntimeError(f"{file.name} holds {count} tensors of {len(state)} that were trained")


def _save_gated(model: Any, config: Any, prepared: Path, state: Mapping[str, Tensor] | None = None) -> None:
    state = _state_of(model, "default", state)
    write_raw(state, config, prepared / RAW)
    _save_files(*fold(state, config), prepared)


def _state_of(model: Any, adapter_name: str, state: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """An adapter's tensors by PEFT's names, from the model's or from whole ones by the model's names."""
    from peft import get_peft_model_state_dict

    given = None if state is None else dict(state)
    found: dict[str, Tensor] = get_peft_model_state_dict(
        model, given, adapter_name=adapter_name, save_embedding_layers=False
    )
    return found


def _save_files(tensors: Mapping[str, Tensor], options: Any, prepared: Path) -> None:
    from safetensors.torch import save_file

    options.inference_mode = True
    save_file({name: tensor.detach().cpu() for name, tensor in tensors.items()}, prepared / ADAPTER_WEIGHTS)
    options.save_pretrained(prepared)


def _save_from_any_rank(model: Any, folder: Path) -> None:
    """`save_pretrained` on the rank that got here first. transformers 5 writes on rank 0 only, and says nothing."""
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        model.save_pretrained(folder, safe_serialization=True)
    finally:
        del model.should_save_on_this_rank
    if not any(folder.glob("*.safetensors")):
        raise RuntimeError(f"{type(model).__name__} was to be kept as a base, but transformers wrote no weights")


def keep_base(model: Any, tokenizer: Any, study: StudyDir, name: str) -> Path:
    """Keep a base that exists nowhere else (random or merged weights) in the study's cache, for adapters to name.

    Whoever comes first writes it, for all jobs and ranks; a folder that is broken is written again. The model's
    `name_or_path` is set, which PEFT stores as an adapter's base.
    """
    folder = study.model_cache / name
    model.name_or_path = str(folder.resolve())
    if not problems(folder, hashes=False):
        return folder
    try:
        with Lease.acquire(study.leases / f"base-{name}", wait_s=600):
            if problems(folder):
                prepared = temporary_beside(folder)
                _save_from_any_rank(model, prepared)
                tokenizer.save_pretrained(prepared)
                seal(prepared, folder, {"kind": "base"})
    except LeaseHeldError as error:
        raise TimeoutError(f"{folder} was not written within ten minutes: {error}") from error
    finally:
        for litter in folder.parent.glob(f".tmp-{name}-{os.getpid()}-*"):
            shutil.rmtree(litter)
    return folder

"""The model that a stage starts from: the study's own, or its nearest parent's result, as `init` says."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import torch

from tunestudy.config.adapter import MoleAdapter, changed_shape
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.paths import located
from tunestudy.config.world import WORLD_ALONE, changed_world
from tunestudy.models.components.world import install_world, world_of
from tunestudy.models.fold import RAW
from tunestudy.models.identity import folder_identity
from tunestudy.models.loaded import LoadedModel, with_processor
from tunestudy.models.mole_files import holds_mole
from tunestudy.models.origin import Origin, pretrained
from tunestudy.models.overlay import lay_over
from tunestudy.models.own import own_model, tokenizer_of
from tunestudy.models.publish import keep_base
from tunestudy.models.results import attached, base_of, checked_facts, json_object, on_mole, on_world
from tunestudy.models.roles import hold_trainable_in_float32
from tunestudy.models.stored import ADAPTER_CONFIG
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir

PARENT_ADAPTER = "parent"
"""Name of the frozen adapter below a stacked one."""


def load_start(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The model that `job`'s stage starts from, without a new adapter, with the components and the world part that the
    stage names.

    Raises StudyError for anything that is not a whole model: it names the job and the file.
    """
    _check_can_be_merged(job)
    loaded = with_processor(_start(job, folder, device), job, folder)
    world = job.training.world if job.training else None
    if world is not None and world_of(loaded.model) is None:
        install_world(loaded.model, loaded.tokenizer, world, seed=job.seed, base_dir=folder.root / job.base_dir)
    return loaded


def _check_can_be_merged(job: Job) -> None:
    """`save_merged` of what no plain model holds would be left out at the end, after all the training."""
    settings = job.training
    if settings is None or not settings.save_merged or not isinstance(settings.adapter, MoleAdapter):
        return
    if settings.adapter.gate != "layer":
        raise StudyError(
            at(f"stages.{job.stage}.save_merged"),
            "gates that read the tokens cannot be folded into weights; leave it out, or use gate: layer",
        )


def _start(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The start with the components that the stage names, or with the weights that are laid over it."""
    settings = job.training
    if job.model.weights is not None:
        loaded = _load_start(job, folder, device)
        return replace(loaded, model=lay_over(loaded.model, located(folder.root / job.base_dir, job.model.weights)))
    if settings is None or settings.components is None:
        return _load_start(job, folder, device)
    from tunestudy.models.components.install import has_components  # imports InternVL's classes

    whole = job.model_copy(update={"settings": settings.model_copy(update={"quantization": None})})
    loaded = _load_start(whole, folder, device)
    below_adapter = loaded.continues_adapter or hasattr(loaded.model, "peft_config")
    if not has_components(loaded.model, settings.components, job.stage, below_adapter=below_adapter):
        return _begin_components(loaded, job, folder, device)
    return loaded if settings.quantization is None else _load_start(job, folder, device)


def _begin_components(loaded: LoadedModel, job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """Add fresh components; below an adapter the model with them is kept on disk, since it exists nowhere else."""
    from tunestudy.models.components.install import install

    assert job.training is not None and job.training.components is not None
    try:
        install(loaded.model, job.training.components, seed=job.seed)
    except StudyError as error:
        raise StudyError(at(f"stages.{job.stage}.{error.place.key}"), error.message) from error
    if job.training.adapter is None:
        return loaded
    facts = [loaded.identity, loaded.model.components.model_dump(mode="json"), job.seed]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    kept = keep_base(loaded.model, loaded.tokenizer, folder.study, f"components-{name}")
    model = pretrained(Origin(str(kept)), job.model, device, job.training.quantization)
    return LoadedModel(model, loaded.tokenizer, folder_identity(kept))


def _load_start(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The start without components that only this stage adds."""
    tokenizer = tokenizer_of(job, folder)
    init = job.training.init if job.training else None
    bits = job.training.quantization if job.training else None
    if not job.parents or init == "base":
        return own_model(job, folder, tokenizer, device)
    parent = folder.study.job(job.parents[-1])
    facts = checked_facts(parent)
    if facts["kind"] == "world":
        _check_same_world(job, parent)
        return on_world(parent, facts, job, tokenizer, device)
    if facts["kind"] == "mole" or (init == "continue" and holds_mole(parent.model)):
        return _continued_mole(job, parent, facts, tokenizer, device)
    if facts["kind"] != "adapter":
        model = pretrained(Origin(str(parent.model), local=True), job.model, device, bits)
        return LoadedModel(model, tokenizer, folder_identity(parent.model))
    return _on_adapter(job, parent, facts, tokenizer, device)


def _on_adapter(
    job: Job, parent: JobDir, facts: dict[str, Any], tokenizer: Any, device: torch.device | str
) -> LoadedModel:
    """Start from a parent that is an adapter, the way `init` says."""
    assert job.training is not None
    init, bits = job.training.init, job.training.quantization
    if init == "continue" and job.training.adapter is not None:
        _check_same_adapter(job, parent)
        base, identity = base_of(parent, facts, job.model, device, bits)
        if (parent.model / RAW).is_dir():
            return LoadedModel(base, tokenizer, identity, continues_adapter=True, gated=parent.model / RAW)
        model = attached(base, parent, trainable=True)
        hold_trainable_in_float32(model)
        return LoadedModel(model, tokenizer, identity, continues_adapter=True)
    if init not in ("merge_then_new", "stack"):
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"the stage before ({parent.root.name}) is an adapter; say how to start from it: continue (with the same "
            "adapter), merge_then_new, stack, or base",
        )
    if init == "stack" and json_object(parent.model / ADAPTER_CONFIG).get("modules_to_save"):
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"stack cannot freeze the roles that {parent.root.name} trained beside its adapter; use merge_then_new",
        )
    base, _ = base_of(parent, facts, job.model, device)  # in full: few bits cannot hold a merged weight
    merged = attached(base, parent, trainable=False).merge_and_unload()
    kept = keep_base(merged, tokenizer, parent.study, f"merged-{parent.root.name}")
    identity = folder_identity(kept)
    if init == "merge_then_new":
        model = merged if bits is None else pretrained(Origin(str(kept)), job.model, device, bits)
        return LoadedModel(model, tokenizer, identity)
    base, _ = base_of(parent, facts, job.model, device, bits)
    stacked = attached(base, parent, trainable=False, name=PARENT_ADAPTER)
    for module in (stacked, base):
        module.name_or_path = str(kept)  # what a published adapter names as its base
    return LoadedModel(stacked, tokenizer, identity)


def _continued_mole(
    job: Job, parent: JobDir, facts: dict[str, Any], tokenizer: Any, device: torch.device | str
) -> LoadedModel:
    """The mixture of the stage before, to train on."""
    settings = job.training
    assert settings is not None
    if settings.init != "continue" or settings.adapter is None:
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"{parent.root.name} is a mixture whose gates read the tokens, so that it cannot be folded into weights; "
            "use continue with the same adapter, base, or gate: layer in the stage before",
        )
    _check_same_adapter(job, parent)
    assert isinstance(settings.adapter, MoleAdapter), "the same as its parent's"
    model, identity = on_mole(parent, facts, job.model, device, continues=settings.adapter)
    return LoadedModel(model, tokenizer, identity, continues_adapter=True)


def _check_same_world(job: Job, parent: JobDir) -> None:
    """A stage goes on with the world part as it is, and with nothing that its small result could not hold."""
    before = Job.model_validate(read_json(parent.job_json)).training
    assert before is not None and before.world is not None and job.training is not None
    changed = changed_world(before.world, job.training.world) if job.training.world else []
    if changed:
        raise StudyError(
            at(f"stages.{job.stage}.world"),
            f"{parent.root.name} has a world part of another {', '.join(changed)}; keep it alike, or use init: base",
        )
    if job.training.adapter is not None:
        raise StudyError(at(f"stages.{job.stage}.adapter"), f"{parent.root.name} has a world part; {WORLD_ALONE}")


def _check_same_adapter(job: Job, parent: JobDir) -> None:
    """`continue` goes on with the parent's adapter as it is, so other options for it would be lost."""
    before = Job.model_validate(read_json(parent.job_json)).training
    assert job.training is not None and job.training.adapter is not None
    if before is None or before.adapter is None:
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"{parent.root.name} is merged of several adapters, which none of these settings describes; use "
            "merge_then_new or stack",
        )
    changed = changed_shape(before.adapter, job.training.adapter)
    if changed:
        raise StudyError(
            at(f"stages.{job.stage}.adapter"),
            f"init: continue trains the adapter of {parent.root.name} on, whose options differ ({', '.join(changed)}); "
            "give it the same, or use merge_then_new",
        )

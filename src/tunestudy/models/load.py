"""The model that a stage starts from, and the one that it published.

A stage starts from the study's model or from its nearest parent's `model/` folder, which names its own base; so a
lineage of any length is walked one folder at a time, and every folder of ours is checked against its manifest.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from tunestudy.config.adapter import MoleAdapter, changed_shape
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.merge import MergeStage
from tunestudy.config.model import DType, ModelConfig
from tunestudy.config.stage import Quantization
from tunestudy.config.world import WORLD_ALONE, changed_world
from tunestudy.data.vision import Vision
from tunestudy.models.components.world import install_world, put_world, world_of
from tunestudy.models.components.world_files import base_origin, world_facts
from tunestudy.models.components.world_vision import WorldVision
from tunestudy.models.decoder import base_model_of
from tunestudy.models.fold import RAW
from tunestudy.models.identity import Identity, folder_identity, hub_identity, random_identity
from tunestudy.models.mole_files import holds_mole, mole_base_origin, put_saved, raw_folder
from tunestudy.models.origin import (
    Origin,
    architecture_config,
    find_origin,
    load_processor,
    load_tokenizer,
    pretrained,
    random_weights,
)
from tunestudy.models.overlay import UnusableError, lay_over, with_adapter
from tunestudy.models.publish import keep_base
from tunestudy.models.roles import hold_trainable_in_float32
from tunestudy.models.vision import vision_of
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest

PARENT_ADAPTER = "parent"
"""Name of the frozen adapter below a stacked one."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to train or to evaluate.

    `identity` tells the base weights apart (for manifests). `continues_adapter`: the parent's adapter is attached and
    trainable, so no new one belongs on it.
    """

    model: Any
    tokenizer: Any
    identity: Identity
    continues_adapter: bool = False
    gated: Path | None = None
    """The adapter to continue when it has gates, in its raw form; `model` is its base alone then."""
    processor: Any = None
    """Of images; None for a model without eyes."""

    @cached_property
    def vision(self) -> Vision | None:
        """How the model takes images."""
        own = vision_of(base_model_of(self.model).config, self.tokenizer, self.processor)
        part = world_of(self.model)
        return own if own is None or part is None else cast(Vision, WorldVision(own, part.settings))


def load_start(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The model that `job`'s stage starts from, without a new adapter, with the components and the world part that the
    stage names.

    Raises StudyError for anything that is not a whole model: it names the job and the file.
    """
    _check_can_be_merged(job)
    loaded = _with_processor(_start(job, folder, device), job, folder)
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


def _with_processor(loaded: LoadedModel, job: Job, folder: JobDir) -> LoadedModel:
    base = base_model_of(loaded.model)
    return replace(loaded, processor=load_processor(job.model, folder.root / job.base_dir, base))


def _start(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The start with the components that the stage names, or with the weights that are laid over it."""
    settings = job.training
    if job.model.weights is not None:
        loaded = _load_start(job, folder, device)
        return replace(loaded, model=lay_over(loaded.model, folder.root / job.base_dir / job.model.weights))
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
        return _study_model(job, folder, tokenizer, device)
    parent = folder.study.job(job.parents[-1])
    facts = _checked(parent)
    if facts["kind"] == "world":
        _check_same_world(job, parent)
        return _on_world(parent, facts, job, tokenizer, device)
    if facts["kind"] == "mole" or (init == "continue" and holds_mole(parent.model)):
        return _continued_mole(job, parent, facts, tokenizer, device)
    if facts["kind"] != "adapter":
        model = pretrained(Origin(str(parent.model), local=True), job.model, device, bits)
        return LoadedModel(model, tokenizer, folder_identity(parent.model))
    return _on_adapter(job, parent, facts, tokenizer, device)


def tokenizer_of(job: Job, folder: JobDir) -> Any:
    """The study's, or that of a merge which the start comes from and which may have brought another."""
    ancestor = job
    while ancestor.parents:
        parent = folder.study.job(ancestor.parents[-1])
        found = read_json(parent.job_json)
        if found is None:
            break  # a result that was put there without its job
        ancestor = Job.model_validate(found)
        if ancestor.merging is not None and may_change_tokenizer(ancestor.merging):
            return _tokenizer_in(folder.study.job(job.parents[-1]).model, job, folder)
    return load_tokenizer(job.model, folder.root / job.base_dir)


def _tokenizer_in(model: Path, job: Job, folder: JobDir) -> Any:
    """The one in a model's folder, with the chat template that the study may give in place of its own."""
    return load_tokenizer(job.model.model_copy(update={"tokenizer": str(model)}), folder.root / job.base_dir)


def may_change_tokenizer(merge: MergeStage) -> bool:
    """Whether a merged model may have another tokenizer than the study's: all tokens of all, or a folder's own."""
    first = merge.base if merge.base is not None else next(iter(merge.models.values()))
    return merge.vocabulary == "union" or first.path is not None


def frozen_identity(job: Job, config: ModelConfig, folder: JobDir, tokenizer: Any) -> Identity:
    """What tells a model to read with apart, without loading it. Random weights are drawn by a seed."""
    from transformers import AutoConfig

    if config.architecture:
        return random_identity(config, config.drawn_by(job.seed), architecture_config(config, tokenizer))
    origin = find_origin(config, folder.root / job.base_dir)
    if origin.local:
        return folder_identity(Path(origin.name))
    options = {"revision": origin.revision, "trust_remote_code": config.trust_remote_code}
    found = AutoConfig.from_pretrained(origin.name, **options)
    return {"kind": "hub", "name": origin.name, "revision": getattr(found, "_commit_hash", None)}


def load_frozen(job: Job, config: ModelConfig, folder: JobDir, tokenizer: Any, device: torch.device | str) -> Any:
    """A model to read with, not to train, whole on `device`; the study's own as a first stage of these settings would
    load it, in few bits where they say so."""
    if config == job.model:
        return _study_model(job, folder, tokenizer, device).model
    if config.architecture:
        return random_weights(config, tokenizer, seed=config.drawn_by(job.seed), device=device)
    return pretrained(find_origin(config, folder.root / job.base_dir), config, device)


def load_result(folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The published model of a job, for inference; the start model itself for a job that only evaluates.

    An adapter that learnt on a base in few bits is put on the same again, so that what was trained is what is scored.
    """
    job = Job.model_validate(read_json(folder.job_json))
    if job.settings is None:
        return load_start(job, folder, device)
    facts, bits = _checked(folder), job.training.quantization if job.training else None
    tokenizer = _saved_tokenizer(folder.model) if job.merging is None else _tokenizer_in(folder.model, job, folder)
    if facts["kind"] == "world":
        return _with_processor(_on_world(folder, facts, job, tokenizer, device), job, folder)
    if facts["kind"] == "mole":
        model, identity = _on_mole(folder, facts, job.model, device)
        return _with_processor(LoadedModel(model, tokenizer, identity), job, folder)
    if facts["kind"] != "adapter":
        model = pretrained(Origin(str(folder.model), local=True), job.model, device)
        return _with_processor(LoadedModel(model, tokenizer, folder_identity(folder.model)), job, folder)
    base, identity = _base_of(folder, facts, job.model, device, bits)
    return _with_processor(LoadedModel(_with_adapter(base, folder, trainable=False), tokenizer, identity), job, folder)


def load_merged(folder: JobDir, device: torch.device | str) -> Any:
    """A job's published adapter folded into its base, which is not in few bits here: those cannot hold the sum."""
    return load_whole(folder, device).merge_and_unload()


def load_whole(folder: JobDir, device: torch.device | str, *, dtype: DType | None = None) -> Any:
    """A job's published weights as a model, an adapter's on its base, which is not in few bits here.

    dtype: of all that is not an adapter's; default: the study's. StudyError for a result that is no set of weights: a
    mixture whose gates read the tokens, a world part.
    """
    settings = Job.model_validate(read_json(folder.job_json)).model
    settings = settings if dtype is None else settings.model_copy(update={"dtype": dtype})
    facts = _checked(folder)
    if facts["kind"] == "adapter":
        base, _ = _base_of(folder, facts, settings, device)
        return _with_adapter(base, folder, trainable=False)
    if facts["kind"] != "full":
        raise _broken(folder, f"it is a result of the kind {facts['kind']}, which no plain model holds")
    return pretrained(Origin(str(folder.model), local=True), settings, device)


def _study_model(job: Job, folder: JobDir, tokenizer: Any, device: torch.device | str) -> LoadedModel:
    """The study's own model; random weights are kept on disk when an adapter will need them as its base."""
    bits = job.training.quantization if job.training else None
    if job.model.architecture:
        seed = job.model.drawn_by(job.seed)
        model = random_weights(job.model, tokenizer, seed=seed, device=device)
        identity = random_identity(job.model, seed, model.config)
        if job.training is not None and (job.training.adapter is not None or job.training.world is not None):
            kept = keep_base(model, tokenizer, folder.study, f"random-{identity['sha256'][:12]}")
            if bits is not None:
                model = pretrained(Origin(str(kept)), job.model, device, bits)
        return LoadedModel(model, tokenizer, identity)
    origin = find_origin(job.model, folder.root / job.base_dir)
    model = pretrained(origin, job.model, device, bits)
    identity = folder_identity(Path(origin.name)) if origin.local else hub_identity(origin.name, model)
    return LoadedModel(model, tokenizer, identity)


def _on_adapter(
    job: Job, parent: JobDir, facts: dict[str, Any], tokenizer: Any, device: torch.device | str
) -> LoadedModel:
    """Start from a parent that is an adapter, the way `init` says."""
    assert job.training is not None
    init, bits = job.training.init, job.training.quantization
    if init == "continue" and job.training.adapter is not None:
        _check_same_adapter(job, parent)
        base, identity = _base_of(parent, facts, job.model, device, bits)
        if (parent.model / RAW).is_dir():
            return LoadedModel(base, tokenizer, identity, continues_adapter=True, gated=parent.model / RAW)
        model = _with_adapter(base, parent, trainable=True)
        hold_trainable_in_float32(model)
        return LoadedModel(model, tokenizer, identity, continues_adapter=True)
    if init not in ("merge_then_new", "stack"):
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"the stage before ({parent.root.name}) is an adapter; say how to start from it: continue (with the same "
            "adapter), merge_then_new, stack, or base",
        )
    if init == "stack" and _json(parent.model / "adapter_config.json").get("modules_to_save"):
        raise StudyError(
            at(f"stages.{job.stage}.init"),
            f"stack cannot freeze the roles that {parent.root.name} trained beside its adapter; use merge_then_new",
        )
    base, _ = _base_of(parent, facts, job.model, device)  # in full: few bits cannot hold a merged weight
    merged = _with_adapter(base, parent, trainable=False).merge_and_unload()
    kept = keep_base(merged, tokenizer, parent.study, f"merged-{parent.root.name}")
    identity = folder_identity(kept)
    if init == "merge_then_new":
        model = merged if bits is None else pretrained(Origin(str(kept)), job.model, device, bits)
        return LoadedModel(model, tokenizer, identity)
    base, _ = _base_of(parent, facts, job.model, device, bits)
    stacked = _with_adapter(base, parent, trainable=False, name=PARENT_ADAPTER)
    for module in (stacked, base):
        module.name_or_path = str(kept)  # what a published adapter names as its base
    return LoadedModel(stacked, tokenizer, identity)


def _on_world(
    owner: JobDir, facts: dict[str, Any], job: Job, tokenizer: Any, device: torch.device | str
) -> LoadedModel:
    """The base of a published world part with the part on it; its encoder goes where this job wants it."""
    stored = world_facts(owner.model)
    model, identity = _base_at(owner, facts, base_origin(owner.model, stored), job.model, device)
    world = job.training.world if job.training else None
    put_world(model, tokenizer, owner.model, device=world.device if world else None)
    return LoadedModel(model, tokenizer, identity)


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
    model, identity = _on_mole(parent, facts, job.model, device, continues=settings.adapter)
    return LoadedModel(model, tokenizer, identity, continues_adapter=True)


def _on_mole(
    owner: JobDir,
    facts: dict[str, Any],
    settings: ModelConfig,
    device: torch.device | str,
    continues: MoleAdapter | None = None,
) -> tuple[Any, Identity]:
    """The base of a published mixture with the mixture on it, trainable if a stage goes on with it."""
    raw = raw_folder(owner.model)
    model, identity = _base_at(owner, facts, mole_base_origin(raw), settings, device)
    put_saved(model, raw, trainable=continues is not None, settings=continues)
    return model, identity


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


def _base_of(
    owner: JobDir,
    facts: dict[str, Any],
    settings: ModelConfig,
    device: torch.device | str,
    bits: Quantization | None = None,
) -> tuple[Any, Identity]:
    """The base of a published adapter: a folder relative to the adapter's, or a hub id; it must be the very same."""
    config = _json(owner.model / "adapter_config.json")
    name = config["base_model_name_or_path"]
    folder = (owner.model / name).resolve()
    if name.startswith(".") and not folder.is_dir():
        raise _broken(owner, f"adapter_config.json names {name} as its base, and that folder is gone")
    origin = Origin(str(folder), local=True) if folder.is_dir() else Origin(name, config.get("revision"), local=False)
    return _base_at(owner, facts, origin, settings, device, bits)


def _base_at(
    owner: JobDir,
    facts: dict[str, Any],
    origin: Origin,
    settings: ModelConfig,
    device: torch.device | str,
    bits: Quantization | None = None,
) -> tuple[Any, Identity]:
    """The model at `origin`, which a published result names as its base, and what tells it apart."""
    base = pretrained(origin, settings, device, bits)
    identity = folder_identity(Path(origin.name)) if origin.local else hub_identity(origin.name, base)
    expected = facts.get("base")
    if expected and expected.get("kind") == identity["kind"] and expected != identity:
        raise _broken(owner, f"{origin.name} is named as its base, but that is not the model it was trained on")
    return base, identity


def _with_adapter(base: Any, owner: JobDir, *, trainable: bool, name: str = "default") -> Any:
    """`base` with a published adapter attached; a tensor that is missing from its file is an error."""
    try:
        return with_adapter(base, owner.model, trainable=trainable, name=name)
    except UnusableError as error:
        raise _broken(owner, str(error)) from error


def _checked(owner: JobDir) -> dict[str, Any]:
    """The manifest of a job's published model, after every hash in it held."""
    wrong = problems(owner.model)
    if wrong:
        raise _broken(owner, "; ".join(wrong[:3]))
    facts = read_manifest(owner.model)
    assert facts is not None
    return facts


def _broken(owner: JobDir, message: str) -> StudyError:
    cure = "delete that folder and result.json, then run again to make it anew"
    return StudyError(at(f"jobs/{owner.root.name}/model"), f"{message}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)


def _saved_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise StudyError(at(path.name), f"{path} is missing or no JSON object", exit_code=Exit.PREFLIGHT_REFUSED)
    return value

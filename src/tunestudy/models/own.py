"""The study's own model: pretrained or drawn, with its tokenizer, to start from or only to read with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.job import Job
from tunestudy.config.merge import MergeStage
from tunestudy.config.model import ModelConfig
from tunestudy.config.paths import located
from tunestudy.models.identity import Identity, base_identity, folder_identity, random_identity
from tunestudy.models.loaded import LoadedModel, with_processor
from tunestudy.models.origin import Origin, architecture_config, find_origin, load_tokenizer, pretrained, random_weights
from tunestudy.models.overlay import lay_over
from tunestudy.models.publish import keep_base
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir


def own_model(job: Job, folder: JobDir, tokenizer: Any, device: torch.device | str) -> LoadedModel:
    """The study's own model; random weights are kept on disk when an adapter will need them as its base."""
    bits = job.training.quantization if job.training else None
    if job.model.architecture:
        model = random_weights(job.model, tokenizer, seed=job.seed, device=device)
        identity = random_identity(job.model, job.seed, model.config)
        if job.training is not None and (job.training.adapter is not None or job.training.world is not None):
            kept = keep_base(model, tokenizer, folder.study, f"random-{identity['sha256'][:12]}")
            if bits is not None:
                model = pretrained(Origin(str(kept)), job.model, device, bits)
        return LoadedModel(model, tokenizer, identity)
    origin = find_origin(job.model, folder.root / job.base_dir)
    model = pretrained(origin, job.model, device, bits)
    identity = base_identity(origin.name, model)
    return LoadedModel(model, tokenizer, identity)


def as_it_comes(job: Job, folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The study's own model with the weights that are laid over it, for a job that trains nothing."""
    assert not job.parents, "who trains nothing goes on from nothing"
    loaded = own_model(job, folder, tokenizer_of(job, folder), device)
    if job.model.weights is not None:
        loaded = replace(loaded, model=lay_over(loaded.model, located(folder.root / job.base_dir, job.model.weights)))
    return with_processor(loaded, job, folder)


def tokenizer_of(job: Job, folder: JobDir) -> Any:
    """The study's, or that of a merge which the start comes from and which may have brought another."""
    below = job.parents[-1] if job.parents else None
    while below is not None:
        found = read_json(folder.study.job(below).job_json)
        if found is None:
            break  # a result that was put there without its job
        ancestor = Job.model_validate(found)
        if ancestor.merging is not None and may_change_tokenizer(ancestor.merging):
            return tokenizer_in(folder.study.job(job.parents[-1]).model, job, folder)
        below = _whose_tokenizer(ancestor)
    return load_tokenizer(job.model, folder.root / job.base_dir)


def _whose_tokenizer(job: Job) -> str | None:
    """The job whose tokenizer this one has; None for the study's own. A merge without a union has its first input's."""
    if job.merging is not None:
        return job.inputs.get(next(iter(job.merging.inputs)))
    return job.parents[-1] if job.parents else None


def tokenizer_in(model: Path, job: Job, folder: JobDir) -> Any:
    """The one in a model's folder, with the chat template that the study may give in place of its own."""
    return load_tokenizer(job.model.model_copy(update={"tokenizer": str(model)}), folder.root / job.base_dir)


def may_change_tokenizer(merge: MergeStage) -> bool:
    """Whether a merged model may have another tokenizer than the study's: all tokens of all, or a folder's own."""
    first = next(iter(merge.inputs.values()))
    return merge.vocabulary == "union" or first.path is not None


def frozen_identity(job: Job, config: ModelConfig, folder: JobDir, tokenizer: Any) -> Identity:
    """What tells a model to read with apart, without loading it. Random weights are drawn by a seed."""
    from transformers import AutoConfig

    if config.architecture:
        return random_identity(config, job.seed, architecture_config(config, tokenizer))
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
        return own_model(job, folder, tokenizer, device).model
    if config.architecture:
        return random_weights(config, tokenizer, seed=job.seed, device=device)
    return pretrained(find_origin(config, folder.root / job.base_dir), config, device)

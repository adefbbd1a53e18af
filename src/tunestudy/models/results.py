"""Published results of jobs, opened again.

A result names its own base, so that a lineage of any length is walked one folder at a time, and every folder of ours is
checked against its manifest.
"""

from pathlib import Path
from typing import Any

import torch

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.model import DType, ModelConfig
from tunestudy.config.stage import Quantization
from tunestudy.models.components.world import put_world
from tunestudy.models.components.world_files import base_origin, world_facts
from tunestudy.models.identity import Identity, base_identity, folder_identity
from tunestudy.models.loaded import LoadedModel, with_processor
from tunestudy.models.mole_files import mole_base_origin, put_saved, raw_folder
from tunestudy.models.origin import Origin, origin_of_base, pretrained
from tunestudy.models.overlay import UnusableError, with_adapter
from tunestudy.models.own import as_it_comes, tokenizer_in
from tunestudy.models.stored import ADAPTER_CONFIG
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems, read_manifest


def load_result(folder: JobDir, device: torch.device | str) -> LoadedModel:
    """The published model of a job, for inference; the start model itself for a job that only evaluates.

    An adapter that learnt on a base in few bits is put on the same again, so that what was trained is what is scored.
    """
    job = Job.model_validate(read_json(folder.job_json))
    if job.settings is None:
        return as_it_comes(job, folder, device)
    facts, bits = checked_facts(folder), job.training.quantization if job.training else None
    tokenizer = _saved_tokenizer(folder.model) if job.merging is None else tokenizer_in(folder.model, job, folder)
    if facts["kind"] == "world":
        return with_processor(on_world(folder, facts, job, tokenizer, device), job, folder)
    if facts["kind"] == "mole":
        model, identity = on_mole(folder, facts, job.model, device)
        return with_processor(LoadedModel(model, tokenizer, identity), job, folder)
    if facts["kind"] != "adapter":
        model = pretrained(Origin(str(folder.model), local=True), job.model, device)
        return with_processor(LoadedModel(model, tokenizer, folder_identity(folder.model)), job, folder)
    base, identity = base_of(folder, facts, job.model, device, bits)
    return with_processor(LoadedModel(attached(base, folder, trainable=False), tokenizer, identity), job, folder)


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
    facts = checked_facts(folder)
    if facts["kind"] == "adapter":
        base, _ = base_of(folder, facts, settings, device)
        return attached(base, folder, trainable=False)
    if facts["kind"] != "full":
        raise _broken(folder, f"it is a result of the kind {facts['kind']}, which no plain model holds")
    return pretrained(Origin(str(folder.model), local=True), settings, device)


def on_world(owner: JobDir, facts: dict[str, Any], job: Job, tokenizer: Any, device: torch.device | str) -> LoadedModel:
    """The base of a published world part with the part on it; its encoder goes where this job wants it."""
    stored = world_facts(owner.model)
    model, identity = _base_at(owner, facts, base_origin(owner.model, stored), job.model, device)
    world = job.training.world if job.training else None
    put_world(model, tokenizer, owner.model, device=world.device if world else None)
    return LoadedModel(model, tokenizer, identity)


def on_mole(
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


def base_of(
    owner: JobDir,
    facts: dict[str, Any],
    settings: ModelConfig,
    device: torch.device | str,
    bits: Quantization | None = None,
) -> tuple[Any, Identity]:
    """The base of a published adapter: a folder relative to the adapter's, or a hub id; it must be the very same."""
    config = json_object(owner.model / ADAPTER_CONFIG)
    origin = origin_of_base(owner.model, config)
    if origin is None:
        gone = config["base_model_name_or_path"]
        raise _broken(owner, f"{ADAPTER_CONFIG} names {gone} as its base, and that folder is gone")
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
    identity = base_identity(origin.name, base)
    expected = facts.get("base")
    if expected and expected.get("kind") == identity["kind"] and expected != identity:
        raise _broken(owner, f"{origin.name} is named as its base, but that is not the model it was trained on")
    return base, identity


def attached(base: Any, owner: JobDir, *, trainable: bool, name: str = "default") -> Any:
    """`base` with a published adapter attached; a tensor that is missing from its file is an error."""
    try:
        return with_adapter(base, owner.model, trainable=trainable, name=name)
    except UnusableError as error:
        raise _broken(owner, str(error)) from error


def checked_facts(owner: JobDir) -> dict[str, Any]:
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


def json_object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise StudyError(at(path.name), f"{path} is missing or no JSON object", exit_code=Exit.PREFLIGHT_REFUSED)
    return value

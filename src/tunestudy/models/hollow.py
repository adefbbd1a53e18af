"""A model of the real architecture without its numbers: every tensor has a shape and a type, none has content.

Only the configuration is read, so a model of any size is there in a second or two. What a hub id names is looked for in
the local cache and never downloaded.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.origin import class_of, find_origin, load_tokenizer, random_weights
from tunestudy.records.layout import JobDir

MISSING = "its configuration is not on this machine"


def hollow_start(job: Job, folder: JobDir) -> LoadedModel:
    """What the job's stage starts from, on the device `meta`, without the adapters of stages before it.

    StudyError where the model's configuration is not on this machine.
    """
    base_dir = folder.root / job.base_dir
    if job.model.architecture:
        tokenizer = load_tokenizer(job.model, base_dir)
        with torch.device("meta"):
            model = random_weights(job.model, tokenizer, seed=job.seed, device="meta")
    else:
        model, tokenizer = _pretrained(job, folder), None
    settings = job.training
    if settings is not None and settings.components is not None:
        from tunestudy.models.components.install import has_components, install

        if not has_components(model, settings.components, job.stage, below_adapter=False):
            install(model, settings.components, seed=job.seed)
    return LoadedModel(model, tokenizer, {})


def _pretrained(job: Job, folder: JobDir) -> Any:
    from transformers import AutoConfig

    origin = find_origin(job.model, folder.root / job.base_dir)
    options = {"revision": origin.revision, "trust_remote_code": job.model.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(origin.name, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        message = f"{job.model.model_name_or_path}: {MISSING}"
        raise StudyError(at("model.model_name_or_path"), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    model_class, components = class_of(config, origin)
    asked = {"dtype": getattr(torch, job.model.dtype), "attn_implementation": job.model.attn_implementation}
    with torch.device("meta"):
        if components:
            return model_class._from_config(config, **asked, **components)
        return model_class.from_config(config, trust_remote_code=job.model.trust_remote_code, **asked)


def fill_with_nothing(model: nn.Module, mode: FakeTensorMode) -> None:
    """Turn a model on `meta` into one on the CPU whose tensors pretend to be there, in place: it can be run and
    differentiated inside `mode`, in autocast, too. Weights that were shared stay shared."""
    made: dict[int, Tensor] = {}

    def pretended(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            with mode:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_weight = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = pretended(tensor)  # type: ignore[assignment]

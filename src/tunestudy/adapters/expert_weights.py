"""Where an expert's weights are, and reading them: of a whole model, or of an adapter on its base.

One expert at a time. A whole model's tensors are read from its files one after the other where they bear the names of
the model's parameters; otherwise, and for an adapter on another base, a second model is loaded in float32 (a
difference of fine-tuning is smaller than what bfloat16 can tell apart).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tunestudy.adapters.low_rank import Pair
from tunestudy.config.adapter import MoleExpert
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.paths import located
from tunestudy.models.fold import ROOT, scale_of
from tunestudy.models.identity import Identity, ends_identity, folder_identity, hub_identity
from tunestudy.models.origin import Origin, check_model_folder, load_tokenizer, pretrained
from tunestudy.models.overlay import UnusableError, with_adapter
from tunestudy.models.own import frozen_identity, load_frozen
from tunestudy.models.results import load_whole
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunestudy.models.tensorfiles import TensorFiles
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import MANIFEST, problems, read_manifest


@dataclass(frozen=True)
class FoundExpert:
    """An expert's weights: of a job, in a folder, or the study's own model."""

    name: str
    label: str
    """Where from, as the study file says it."""
    place: str
    """Key of the study file."""
    identity: Identity
    kind: str
    """`full` or `adapter`."""
    folder: Path | None = None
    """None: the study's own model, which may lie on the hub or nowhere."""
    owner: JobDir | None = None
    """The job that left it."""
    base_revision: str | None = None
    """Of an adapter's base on the hub, in place of what its own configuration says."""

    def wrong(self, message: str) -> StudyError:
        return StudyError(at(self.place), message, exit_code=Exit.PREFLIGHT_REFUSED)


def find_expert(job: Job, folder: JobDir, name: str, expert: MoleExpert) -> FoundExpert:
    """Where an expert lies; StudyError for what is not there, is damaged, or cannot be an expert."""
    place = f"stages.{job.stage}.adapter.experts.{name}"
    if name in job.inputs:
        owner = folder.study.job(job.inputs[name])
        return _in_folder(name, str(expert.stage), place, owner.model, owner)
    if expert.path is None:
        tokenizer = load_tokenizer(job.model, folder.root / job.base_dir)
        identity = frozen_identity(job, job.model, folder, tokenizer)
        return FoundExpert(name, str(expert.stage), place, identity, "full")
    path = located(folder.root / job.base_dir, expert.path).resolve()
    if not path.is_dir():
        raise StudyError(at(f"{place}.path"), f"there is no folder {expert.path}", exit_code=Exit.PREFLIGHT_REFUSED)
    return replace(_in_folder(name, expert.path, place, path, None), base_revision=expert.base_revision)


def _in_folder(name: str, label: str, place: str, path: Path, owner: JobDir | None) -> FoundExpert:
    wrong = problems(path) if owner is not None or (path / MANIFEST).is_file() else []
    kind = (read_manifest(path) or {}).get("kind")
    found = FoundExpert(name, label, place, {}, str(kind), path, owner)
    if wrong:
        raise found.wrong(f"{label}: {'; '.join(wrong[:3])}; delete that folder and result.json, and run again")
    if kind in ("mole", "world"):
        what = "a mixture, whose gates read the tokens" if kind == "mole" else "a world part"
        raise found.wrong(f"{label} is {what}: it is no difference of weights; give a whole model or an adapter")
    if (path / ADAPTER_CONFIG).is_file():
        identity = ends_identity([path / ADAPTER_CONFIG, path / ADAPTER_WEIGHTS])
        return FoundExpert(name, label, place, identity, "adapter", path, owner)
    check_model_folder(path)
    return FoundExpert(name, label, place, folder_identity(path), "full", path, owner)


def start_identity(job: Job, model: Any) -> Identity:
    """Of the weights that the stage starts from; what is laid over a model has no name of its own."""
    if job.model.weights is not None:
        return {"kind": "job", "fingerprint": job.fingerprint}
    name = Path(model.name_or_path)
    return folder_identity(name) if name.is_dir() else hub_identity(str(name), model)


def sits_on(found: FoundExpert, model: Any, start: Identity) -> bool:
    """Whether an adapter's base is, for certain, what the stage starts from."""
    if found.kind != "adapter" or start["kind"] == "job":
        return False
    assert found.folder is not None
    if (read_manifest(found.folder) or {}).get("base") == start:
        return True
    origin = _base_origin(found)
    if not origin.local:
        return start["kind"] == "hub" and start["revision"] is not None and start == _hub(origin)
    return Path(origin.name) == Path(model.name_or_path).resolve() or folder_identity(Path(origin.name)) == start


def _hub(origin: Origin) -> Identity:
    return {"kind": "hub", "name": origin.name, "revision": origin.revision}


def _base_origin(found: FoundExpert) -> Origin:
    """The base that an adapter names: a folder relative to its own, or a hub id."""
    assert found.folder is not None
    config = peft_config(found)
    name = str(config.base_model_name_or_path)
    near = (found.folder / name).resolve()
    if near.is_dir() and found.base_revision is not None:
        raise found.wrong(f"{found.label} has the folder {name} as its base, without revisions: take base_revision out")
    if near.is_dir():
        return Origin(str(near))
    if name.startswith((".", "/")):
        raise found.wrong(f"{found.label} names {name} as its base, and that folder is gone")
    return Origin(name, found.base_revision or config.revision, local=False)


def peft_config(found: FoundExpert) -> Any:
    """PEFT's options of an adapter."""
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(found.folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise found.wrong(f"{found.label}: its {ADAPTER_CONFIG} cannot be read: {error}") from error


def own_factors(found: FoundExpert) -> dict[str, Pair]:
    """Module → an adapter's own A and s·B in fp32. StudyError where it is more than plain factors of linear layers."""
    assert found.folder is not None
    config = peft_config(found)
    files = TensorFiles(found.folder, ADAPTER_WEIGHTS)
    cure = "take its weights' difference instead (use: difference)"
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA" or getattr(config, "use_dora", False):
        what = "DoRA" if getattr(config, "use_dora", False) else str(config.peft_type)
        raise found.wrong(f"{found.label} is {what}, which is no sum of weights and two factors; {cure}")
    downs = [key for key in files.tensors if key.endswith(".lora_A.weight")]
    if other := sorted(set(files.tensors) - {k.replace(".lora_A.", f".lora_{h}.") for k in downs for h in "AB"}):
        raise found.wrong(f"{found.label} holds more than two factors of linear layers, such as {other[0]}; {cure}")
    factors = {}
    for key in downs:
        module = key.removesuffix(".lora_A.weight").removeprefix(ROOT)
        down, up = (files.whole(one).float() for one in (key, key.replace(".lora_A.", ".lora_B.")))
        factors[module] = (down, up * scale_of(vars(config), module, len(down)))
    return factors


class ExpertWeights(Protocol):
    """All that an expert is, by the names of the model that the stage starts from."""

    def weight(self, module: str) -> Tensor | None:
        """(outputs, inputs) fp32 of a linear layer; None where there is none."""

    def others(self, modules: set[str]) -> Iterator[tuple[str, Tensor]]:
        """Every parameter but the weights of `modules`."""


def open_weights(found: FoundExpert, job: Job, folder: JobDir, modules: list[str]) -> ExpertWeights:
    """An expert's weights; what does not fit in the files of a whole model is loaded into a model in float32."""
    if found.kind == "full" and found.folder is not None:
        files = TensorFiles(found.folder)
        if all(f"{module}.weight" in files.tensors for module in modules):
            return FileWeights(files)
    return ModelWeights(_loaded(found, job, folder))


def _loaded(found: FoundExpert, job: Job, folder: JobDir) -> Any:
    """A second model on the CPU, in float32."""
    settings = job.model.model_copy(update={"dtype": "float32"})
    if found.owner is not None:
        return load_whole(found.owner, "cpu", dtype="float32")
    if found.folder is None:
        tokenizer = load_tokenizer(job.model, folder.root / job.base_dir)
        return load_frozen(job, job.model, folder, tokenizer, "cpu")  # random ones are drawn in the type they have
    if found.kind == "full":
        return pretrained(Origin(str(found.folder)), settings, "cpu")
    try:
        return with_adapter(pretrained(_base_origin(found), settings, "cpu"), found.folder, trainable=False)
    except UnusableError as error:
        raise found.wrong(f"{found.label}: {error}") from error


class FileWeights:
    """Of a folder whose tensors bear the names of the model's parameters."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files

    def weight(self, module: str) -> Tensor | None:
        name = f"{module}.weight"
        return self._files.whole(name).float() if name in self._files.tensors else None

    def others(self, modules: set[str]) -> Iterator[tuple[str, Tensor]]:
        for name in self._files.tensors:
            if name.removesuffix(".weight") not in modules:
                yield name, self._files.whole(name)


class ModelWeights:
    """Of a loaded model, with an adapter of PEFT's on it or without."""

    def __init__(self, model: Any) -> None:
        self._modules = {
            name.removeprefix(ROOT).replace(".modules_to_save.default", ""): module
            for name, module in model.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        }
        self._parameters = {
            name.removeprefix(ROOT).replace(".modules_to_save.default", ""): parameter
            for name, parameter in model.named_parameters()
            if ".lora_" not in name and ".original_module." not in name
        }

    def weight(self, module: str) -> Tensor | None:
        layer: Any = self._modules.get(module)
        if layer is None:
            return None
        return adapted_weight(layer) if hasattr(layer, "lora_A") else layer.weight.detach().float()

    def others(self, modules: set[str]) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._parameters.items():
            plain = name.replace(".base_layer.", ".")
            if plain.removesuffix(".weight") not in modules:
                layer: Any = self._modules.get(plain.removesuffix(".weight"))
                adapted = hasattr(layer, "lora_A") and isinstance(layer.get_base_layer(), nn.Linear)
                yield plain, adapted_weight(layer) if adapted else parameter.detach()


@torch.no_grad()
def adapted_weight(layer: Any, adapter_name: str = "default") -> Tensor:
    """(outputs, inputs) fp32: W + s·B A of PEFT's layer, of a DoRA m·(W + s·B A)/‖W + s·B A‖ by rows."""
    weight: Tensor = layer.get_base_layer().weight.detach().float()
    if adapter_name not in layer.lora_A:
        return weight
    up, down = layer.lora_B[adapter_name].weight.float(), layer.lora_A[adapter_name].weight.float()
    weight = torch.addmm(weight, up, down, alpha=layer.scaling[adapter_name])
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    if adapter_name not in magnitudes:
        return weight
    magnitude: Tensor = magnitudes[adapter_name].weight.float()
    norms = weight.norm(dim=1)
    directed: Tensor = weight * (magnitude / norms).masked_fill_(norms == 0, 0)[:, None]  # a row of zeros stays one
    return directed

"""What a merge reads, found: results of stages, folders, the study's own model; each checked before it is believed."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.merge import BASE, STUDY_MODEL, MergeStage, Weights
from tunestudy.config.paths import located
from tunestudy.merge.adapter_source import AdapterSource, read_config
from tunestudy.merge.source import FolderSource, Inputs, Source
from tunestudy.models.fold import GATED_CONFIG
from tunestudy.models.identity import Identity, folder_identity
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunestudy.records.hashes import sha256
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import MANIFEST, problems, read_manifest

PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.py"]
"""Files of a hub repository that a merge reads or carries over."""
NOT_OURS = ["original/*", "consolidated*", "onnx/*"]
"""The same weights a second time, in other formats."""
REFUSED = {
    "mole": "a mixture, whose gates read the tokens: it is no set of weights; export it folded first (gate: layer)",
    "world": "a world part, not a model; merge the models before it is trained",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """One input: its folder and what is known of it before a tensor is read."""

    name: str
    key: str
    """Of the study file."""
    folder: Path
    kind: str
    """`full` or `adapter`."""
    owner: JobDir | None = None
    """The job that left it."""
    identity: Identity | None = None
    """None: to be read off the folder."""
    base_revision: str | None = None
    """Of an adapter's base on the hub, in place of what its own configuration says."""

    def wrong(self, message: str) -> StudyError:
        where = f"jobs/{self.owner.root.name}/model" if self.owner else str(self.folder)
        return StudyError(at(self.key), f"`{self.name}` ({where}) {message}", exit_code=Exit.PREFLIGHT_REFUSED)


def open_inputs(job: Job, folder: JobDir) -> Inputs:
    """All that the job's merge reads, in the settings' order.

    StudyError for what is not there, is damaged, is no set of weights, or cannot go together: adapters of different
    bases, and whole models where an adapter is to be made.
    """
    settings = job.merging
    assert settings is not None
    found = {name: _find(job, folder, name, one) for name, one in settings.inputs.items()}
    with ThreadPoolExecutor() as pool:  # hashing takes as long as reading, and waits for no other
        list(pool.map(check, found.values()))
    found = {name: _whole_or_adapter(one) for name, one in found.items()}
    if BASE in found:
        found[BASE] = _folded(found[BASE], folder)
    _check_kinds(found, settings, job.stage)
    return _opened(found, settings, trusted=job.model.trust_remote_code)


def _opened(found: Mapping[str, Found], settings: MergeStage, *, trusted: bool) -> Inputs:
    bases = {name: _base_of(one) for name, one in found.items() if one.kind == "adapter"}
    _check_same_base(found, bases, settings)
    to = found[BASE].folder if BASE in found and found[BASE].kind == "full" else None
    sources = {name: _source(one, bases.get(name), to, trusted=trusted) for name, one in found.items()}
    models = {name: sources[name] for name in settings.models}
    carrier = _carrier(sources, settings)
    identities = {name: _identity(one, bases.get(name)) for name, one in found.items()}
    return Inputs(
        models=models,
        base=sources.get(BASE),
        carried_from=bases.get(carrier, found[carrier].folder),
        identities=identities,
        folders={name: one.folder for name, one in found.items()},
        bases=bases,
        kinds={name: one.kind for name, one in found.items()},
    )


def _source(one: Found, base: Path | None, to: Path | None, *, trusted: bool) -> Source:
    if base is None:
        return FolderSource(one.folder)
    same = to is not None and to == base
    return AdapterSource(FolderSource(base), one.folder, same_base=same, trust_remote_code=trusted)


def _carrier(sources: Mapping[str, Source], settings: MergeStage) -> str:
    """Whose configuration the result gets: the base's, but a model's when the result has more than the base."""
    first, *_ = settings.models
    if BASE not in sources:
        return first
    taken = settings.absent.removeprefix("take:") if settings.absent.startswith("take:") else first
    has_more = set(sources[taken].tensors) - set(sources[BASE].tensors)
    return taken if settings.absent != "error" and has_more else BASE


def _find(job: Job, folder: JobDir, name: str, weights: Weights) -> Found:
    key = f"stages.{job.stage}.{BASE if name == BASE else f'models.{name}'}"
    if name in job.inputs:
        owner = folder.study.job(job.inputs[name])
        return Found(name=name, key=key, folder=owner.model, kind="", owner=owner)
    if weights.path is None:
        assert weights.stage == STUDY_MODEL, "other stages are among the job's inputs"
        path, identity = study_model(job, folder)
        return Found(name=name, key=key, folder=path, kind="", identity=identity)
    path = located(folder.root / job.base_dir, weights.path).resolve()
    if not path.is_dir():
        raise StudyError(
            at(f"{key}.path"), f"there is no folder {weights.path} (relative paths start at the study file)"
        )
    return Found(name=name, key=key, folder=path, kind="", base_revision=weights.base_revision)


def study_model(job: Job, folder: JobDir) -> tuple[Path, Identity | None]:
    """A folder with the study's own model, and its identity where the folder does not tell it.

    Random weights are drawn by the job's seed and kept in the study's cache; a hub id is what the hub's cache holds,
    and is fetched where it holds nothing.
    """
    from tunestudy.models.origin import find_origin, load_tokenizer, random_weights

    base_dir = folder.root / job.base_dir
    if job.model.architecture:
        from tunestudy.models.identity import random_identity
        from tunestudy.models.publish import keep_base

        tokenizer = load_tokenizer(job.model, base_dir)
        model = random_weights(job.model, tokenizer, seed=job.seed, device="cpu")
        identity = random_identity(job.model, job.seed, model.config)
        return keep_base(model, tokenizer, folder.study, f"random-{identity['sha256'][:12]}").resolve(), identity
    origin = find_origin(job.model, base_dir)
    if origin.local:
        return Path(origin.name), None
    return from_hub(origin.name, origin.revision)


def from_hub(name: str, revision: str | None) -> tuple[Path, Identity]:
    """The folder of a hub repository's files on this machine, and the commit that they are of."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=PATTERNS, ignore_patterns=NOT_OURS)
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        message = f"{name} is not in the hub's cache and cannot be fetched: {error}"
        raise StudyError(at("model.model_name_or_path"), message, exit_code=Exit.PREFLIGHT_REFUSED) from error
    folder = Path(found)
    return folder, {"kind": "hub", "name": name, "revision": folder.name}


def check(one: Found) -> None:
    """Every size and hash of a folder of ours; another's has no manifest. StudyError where one does not hold."""
    if one.owner is None and not (one.folder / MANIFEST).is_file():
        return
    if wrong := problems(one.folder):
        cure = "delete that folder and result.json, then run again to make it anew"
        raise one.wrong(f"is damaged: {'; '.join(wrong[:3])}; {cure}")


def _whole_or_adapter(one: Found) -> Found:
    kind = (read_manifest(one.folder) or {}).get("kind")
    if kind in REFUSED:
        raise one.wrong(f"is {REFUSED[kind]}")
    if (one.folder / ADAPTER_CONFIG).is_file():
        if not (one.folder / ADAPTER_WEIGHTS).is_file():
            raise one.wrong(f"lacks {ADAPTER_WEIGHTS}; convert its pickled weights to safetensors first")
        if one.owner and read_config(one.folder).get("target_parameters") and not problems(one.owner.merged):
            return replace(one, folder=one.owner.merged, kind="full")  # fused experts are folded by PEFT alone
        return replace(one, kind="adapter")
    if (one.folder / GATED_CONFIG).is_file():
        raise one.wrong("is the raw form of an adapter with gates; give the folder above it, where it is folded")
    if not (one.folder / "config.json").is_file():
        raise one.wrong("is no model and no adapter: it has no config.json and no adapter_config.json")
    return replace(one, kind="full")


def _folded(base: Found, folder: JobDir) -> Found:
    """A base that a stage left as an adapter, as the model which stages after it start from: folded, in the cache."""
    if base.kind != "adapter" or base.owner is None:
        return base
    kept = folder.study.model_cache / f"merged-{base.owner.root.name}"
    if problems(kept):
        from transformers import AutoTokenizer

        from tunestudy.models.publish import keep_base
        from tunestudy.models.results import load_merged

        keep_base(load_merged(base.owner, "cpu"), AutoTokenizer.from_pretrained(base.folder), folder.study, kept.name)
    return replace(base, folder=kept.resolve(), kind="full")


def _base_of(one: Found) -> Path:
    """The folder of an adapter's base: relative to the adapter's, absolute, or of the hub's cache."""
    config = read_config(one.folder)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise one.wrong(f"names no base (base_model_name_or_path in {ADAPTER_CONFIG}); write its path there")
    near = (one.folder / name).resolve()
    if near.is_dir() and one.base_revision is not None:
        raise one.wrong(f"has the folder {name} as its base, which has no revisions: take base_revision out")
    if near.is_dir():
        check(replace(one, owner=None, folder=near))
        base, identity = near, folder_identity(near)
    elif name.startswith((".", "/")):
        raise one.wrong(f"names {name} as its base, and that folder is gone")
    else:
        try:
            base, identity = from_hub(name, one.base_revision or config.get("revision"))
        except StudyError as error:
            cure = f"write its path, as seen from the adapter's folder, into {ADAPTER_CONFIG}, or download it first"
            message = f"names {name} as its base: that is no folder beside it, and no model in the hub's cache; {cure}"
            raise one.wrong(message) from error
    expected = (read_manifest(one.folder) or {}).get("base")
    if expected and expected.get("kind") == identity["kind"] and expected != identity:
        raise one.wrong(f"names {name} as its base, but that is not the model it was trained on")
    return base


def _check_kinds(found: Mapping[str, Found], settings: MergeStage, stage: str) -> None:
    whole = [name for name in settings.models if found[name].kind == "full"]
    if settings.into == "adapter" and whole:
        cure = "into: model merges adapters and whole models alike"
        raise StudyError(
            at(f"stages.{stage}.into"), f"{', '.join(whole)}: no adapter, so none can be made of it; {cure}"
        )


def _check_same_base(found: Mapping[str, Found], bases: Mapping[str, Path], settings: MergeStage) -> None:
    """Adapters of different bases: their sum means nothing, unless whoever asks knows what one holds of the other."""
    if settings.allow_descendants and settings.into == "model":
        return
    (first, *others) = [*(name for name in settings.models if name in bases)] or [""]
    for name in others:
        if bases[name] != bases[first] and folder_identity(bases[name]) != folder_identity(bases[first]):
            cure = "merge adapters of one base, or whole models"
            raise found[name].wrong(
                f"is an adapter of {_shown(bases[name])}, and `{first}` is one of {_shown(bases[first])}; {cure}"
            )


def _shown(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


def _identity(one: Found, base: Path | None) -> Identity:
    """What tells an input's weights apart: the hashes of its files; of an adapter also those of its base."""
    if base is None:
        return one.identity or folder_identity(one.folder)
    known = (read_manifest(one.folder) or {"files": {}})["files"]
    hashes = {
        name: known[name]["sha256"] if name in known else sha256(one.folder / name)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
    }
    digest = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
    return {"kind": "adapter", "sha256": digest, "base": folder_identity(base)}

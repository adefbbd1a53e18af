"""What a study names on the hub, and the same study with every name at the commit that its lock holds.

A locked commit stands where `revision:` would stand, so fingerprints, jobs and the worker know nothing of locks.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tunestudy.config.adapter import MoleAdapter
from tunestudy.config.base import Config
from tunestudy.config.benchmark import AnyBenchmark, LmEval
from tunestudy.config.data import AnyDataset, DatacompDataset, HubDataset
from tunestudy.config.merge import MergeStage, Weights
from tunestudy.config.model import ModelConfig
from tunestudy.config.order import ScoreOrder
from tunestudy.config.paths import located
from tunestudy.config.stage import AnyStage, TrainStage, inputs_of
from tunestudy.config.study import Study, Variant
from tunestudy.config.world import WorldEncoderSettings
from tunestudy.records.atomic import read_object
from tunestudy.records.fetched import FetchDir
from tunestudy.records.locked import Lock, Named, lock_beside, read_lock

Settings = TypeVar("Settings", bound=Config)
AnyWeights = TypeVar("AnyWeights", bound=Weights)

DEFAULT_SUBSET = "default"
ADAPTER_CONFIG = "adapter_config.json"
METADATA = "*.parquet"
"""What is read of a repository of DataComp's metadata; features of the images lie beside them, many times as large."""


@dataclass(frozen=True)
class Locking:
    """A study's lock and what it says of the study."""

    path: Path
    """Beside the study file, whether it is there or not."""
    lock: Lock | None
    named: tuple[Named, ...]
    """Everything of the hub that the study names, as its file asks for it."""
    unlockable: Mapping[str, str] = field(default_factory=dict)
    """Keys of what the hub is asked for without a lock, and why: benchmarks of lm-evaluation-harness."""
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Benchmarks of lm-evaluation-harness with their tasks."""

    @property
    def missing(self) -> tuple[Named, ...]:
        """What the lock lacks; nothing without a lock, which nobody has to have."""
        return () if self.lock is None else tuple(one for one in self.named if not self.lock.covers(one))

    @property
    def complete(self) -> bool:
        """Whether jobs find everything without asking the hub."""
        return self.lock is not None and bool(self.named) and not self.missing and not self.unlockable


def locking_of(study: Study, study_file: Path) -> Locking:
    """Read the lock beside a study file. StudyError for one that cannot be read."""
    path = lock_beside(study_file, study.study)
    return locking_by(study, study_file.parent, path, read_lock(path))


def locking_by(study: Study, folder: Path, path: Path, lock: Lock | None) -> Locking:
    """The same by a lock that was read, or is to be written. `folder`: the study file's."""
    tasks = {name: one.named for name, one in study.benchmarks.items() if isinstance(one, LmEval)}
    found = lock.tasks if lock is not None else {}
    unlockable = {f"benchmarks.{name}": why for name, of in tasks.items() if (why := _unlockable(of, found, folder))}
    return Locking(path, lock, tuple(hub_names(study, folder, found)), unlockable, tasks)


def hub_names(study: Study, folder: Path, tasks: Mapping[str, Any]) -> list[Named]:
    """Every repository of the hub that a study reads, each once with all the parts that are read of it.

    `tasks`: what a lock holds of tasks of lm-evaluation-harness.
    """
    found: dict[tuple[str, str, str], set[str]] = {}
    for kind, name, revision, part in (*_names(study, folder), *_task_names(study, tasks)):
        found.setdefault((kind, name, revision or ""), set()).add(part)
    return [Named(kind, name, asked or None, tuple(sorted(parts))) for (kind, name, asked), parts in found.items()]


def pinned(study: Study, lock: Lock, folder: Path) -> Study:
    """The study with locked commits as revisions. Stages that trials shared as one object still are one object."""
    pins = _Pins(lock, folder)
    stages: dict[int, AnyStage] = {}

    def stage_of(stage: AnyStage) -> AnyStage:
        return stages.setdefault(id(stage), pins.stage(stage))

    def variant_of(variant: Variant) -> Variant:
        return variant.model_copy(update={"stages": {name: stage_of(one) for name, one in variant.stages.items()}})

    return study.model_copy(
        update={
            "model": pins.model(study.model),
            "datasets": {name: pins.dataset(one) for name, one in study.datasets.items()},
            "benchmarks": {name: pins.benchmark(one) for name, one in study.benchmarks.items()},
            "variants": {name: variant_of(one) for name, one in study.variants.items()},
        }
    )


def _unlockable(names: Sequence[str], tasks: Mapping[str, Any], folder: Path) -> str:
    """Why data or metrics of these tasks are not locked; empty where they are, or are none of the hub's."""
    for name in names:
        if name in tasks:
            if tasks[name]["reads"] is None:
                return str(tasks[name]["why"])
            if metrics := tasks[name].get("metrics"):
                return f"`evaluate` loads {', '.join(metrics)}, of the metrics of {name}, from the hub at run time"
        elif not located(folder, name).exists():
            return f"which data {name} reads is known once they are fetched"
    return ""


def _task_names(study: Study, tasks: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None, str]]:
    """What tasks read, at the revision that the study, else the task, asks for."""
    for benchmark in (one for one in study.benchmarks.values() if isinstance(one, LmEval)):
        for task in benchmark.named:
            for name, subset, revision in tasks.get(task, {}).get("reads") or ():
                yield "dataset", name, (benchmark.revisions or {}).get(name, revision), subset or DEFAULT_SUBSET


def image_warnings(locking: Locking, datasets: Mapping[str, Mapping[str, Any]], fetched: Path) -> Iterator[str]:
    """Data sets whose images came differently here than where the lock was written: links die.

    `datasets`: their identities; `fetched`: the study's `cache/fetch/`.
    """
    for name, told in (locking.lock.images if locking.lock is not None else {}).items():
        here = datasets.get(name, {}).get("images")
        if not here or here[0] != told["key"]:
            continue  # named no more, or other records: then everything is another
        folder = FetchDir(fetched / here[0])
        both = zip(folder.images(folder.num_complete()) or (), told["shards"], strict=False)
        differ = [number for number, (mine, theirs) in enumerate(both) if mine != theirs]
        if differ:
            yield (
                f"datasets.{name}: {len(differ)} shards of its images (the first is {differ[0]}) are not those that "
                f"{locking.path.name} tells of: some came here or there alone, so results will differ"
            )


def is_hub_id(name: str, folder: Path) -> bool:
    """As `models.origin.find_origin` decides: no folder of that name, and not written like a path."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\n" in name:
        return False
    return not located(folder, name).exists()


def _names(study: Study, folder: Path) -> Iterator[tuple[str, str, str | None, str]]:
    """(kind, id, revision asked, part)."""
    yield from _model_names(study.model, folder)
    stages = {id(stage): stage for variant in study.variants.values() for stage in variant.stages.values()}
    for stage in stages.values():
        for one in inputs_of(stage).values():
            if base := _base_on_hub(one, folder):
                yield from (("model", *base, part) for part in ("tokenizer", "weights"))
        if isinstance(stage, TrainStage):
            yield from _stage_names(stage, folder)
    for dataset in study.datasets.values():
        if isinstance(dataset, HubDataset):
            for subset in (dataset.subset or DEFAULT_SUBSET).split("+"):
                yield "dataset", dataset.name, dataset.revision, subset
        elif isinstance(dataset, DatacompDataset) and dataset.name is not None:
            yield "dataset", dataset.name, dataset.revision, METADATA


def _base_on_hub(weights: Weights, folder: Path) -> tuple[str, str | None] | None:
    """Id and revision of the base that an adapter in a folder names; None where nothing of the hub is named."""
    if weights.path is None:
        return None
    told = read_object(located(folder, weights.path) / ADAPTER_CONFIG)
    base, revision = str(told.get("base_model_name_or_path") or ""), str(told.get("revision") or "")
    if not base or not is_hub_id(base, located(folder, weights.path)):
        return None
    return base, weights.base_revision or revision or None


def _stage_names(stage: TrainStage, folder: Path) -> Iterator[tuple[str, str, str | None, str]]:
    if isinstance(stage.order, ScoreOrder) and isinstance(stage.order.scorer, ModelConfig):
        yield from _model_names(stage.order.scorer, folder)
    encoder = stage.world.encoder if stage.world is not None else None
    if encoder is not None and encoder.model_name_or_path and is_hub_id(encoder.model_name_or_path, folder):
        yield "model", encoder.model_name_or_path, encoder.revision, f"{encoder.subfolder or ''}/"


def _model_names(model: ModelConfig, folder: Path) -> Iterator[tuple[str, str, str | None, str]]:
    if model.model_name_or_path and is_hub_id(model.model_name_or_path, folder):
        for part in ("weights", "tokenizer", *(("code",) if model.trust_remote_code else ())):
            yield "model", model.model_name_or_path, model.revision, part
    if isinstance(model.tokenizer, str) and is_hub_id(model.tokenizer, folder):
        yield "model", model.tokenizer, model.tokenizer_revision, "tokenizer"


@dataclass(frozen=True)
class _Pins:
    lock: Lock
    folder: Path

    def commit(self, kind: str, name: str, revision: str | None) -> str | None:
        """The locked commit, or what was asked for where the lock has none."""
        item = self.lock.find(Named(kind, name, revision, ()))
        return revision if item is None else item.commit

    def model(self, model: ModelConfig) -> ModelConfig:
        update: dict[str, Any] = {}
        if model.model_name_or_path and is_hub_id(model.model_name_or_path, self.folder):
            update["revision"] = self.commit("model", model.model_name_or_path, model.revision)
        if isinstance(model.tokenizer, str) and is_hub_id(model.tokenizer, self.folder):
            update["tokenizer_revision"] = self.commit("model", model.tokenizer, model.tokenizer_revision)
        return _with(model, update)

    def dataset(self, dataset: AnyDataset) -> AnyDataset:
        if not isinstance(dataset, HubDataset | DatacompDataset) or dataset.name is None:
            return dataset
        return _with(dataset, {"revision": self.commit("dataset", dataset.name, dataset.revision)})

    def benchmark(self, benchmark: AnyBenchmark) -> AnyBenchmark:
        if not isinstance(benchmark, LmEval):
            return benchmark
        asked = benchmark.revisions or {}
        found = {
            name: self.commit("dataset", name, asked.get(name, revision))
            for task in benchmark.named
            for name, _, revision in self.lock.tasks.get(task, {}).get("reads") or ()
        }
        found = {name: commit for name, commit in {**asked, **found}.items() if commit is not None}
        return _with(benchmark, {"revisions": found}) if found != asked else benchmark

    def stage(self, stage: AnyStage) -> AnyStage:
        if isinstance(stage, MergeStage):
            models = {name: self.weights(one) for name, one in stage.models.items()}
            base = stage.base and self.weights(stage.base)
            return _with(stage, {"models": _same_or(stage.models, models), "base": base})
        update: dict[str, Any] = {}
        if isinstance(stage.adapter, MoleAdapter):
            experts = {name: one and self.weights(one) for name, one in stage.adapter.experts.items()}
            update["adapter"] = _with(stage.adapter, {"experts": _same_or(stage.adapter.experts, experts)})
        if isinstance(stage.order, ScoreOrder) and isinstance(stage.order.scorer, ModelConfig):
            update["order"] = _with(stage.order, {"scorer": self.model(stage.order.scorer)})
        if stage.world is not None:
            update["world"] = _with(stage.world, {"encoder": self._encoder(stage.world.encoder)})
        return _with(stage, update)

    def weights(self, weights: AnyWeights) -> AnyWeights:
        """An adapter's base at the locked commit, where its own configuration does not say that commit already."""
        base = _base_on_hub(weights, self.folder)
        if base is None:
            return weights
        commit = self.commit("model", *base)
        return weights if commit == base[1] else _with(weights, {"base_revision": commit})

    def _encoder(self, encoder: WorldEncoderSettings) -> WorldEncoderSettings:
        name = encoder.model_name_or_path
        if name is None or not is_hub_id(name, self.folder):
            return encoder
        return _with(encoder, {"revision": self.commit("model", name, encoder.revision)})


def _same_or(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` itself where each value of both is the same object."""
    return old if all(new[name] is one for name, one in old.items()) else new


def _with(settings: Settings, update: Mapping[str, Any]) -> Settings:
    """The very same object where nothing changes."""
    changed = {key: value for key, value in update.items() if getattr(settings, key) is not value}
    return settings.model_copy(update=changed) if changed else settings

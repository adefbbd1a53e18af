"""The keys of the YAML form: which mapping stands where, and which keys it may have.

The YAML form is the validated form of `config/` plus what saves typing: `defaults:`, `stages:`, and in variants
`stages` as a list, `overrides`, `from`, `matrix`, `exclude`.
"""

from collections.abc import Iterator
from typing import Any, Literal

from tunestudy.config.adapter import DoraAdapter, LoraAdapter, MoleAdapter, MoleExpert, SdoraAdapter, SoraAdapter
from tunestudy.config.alerts import AlertSettings, Band
from tunestudy.config.benchmark import KINDS
from tunestudy.config.components import CAbstractor, Pyramid, Rope2d, VisionComponents
from tunestudy.config.data import (
    DatacompDataset,
    DigitsDataset,
    DrawnPool,
    FileDataset,
    HubDataset,
    MixturePart,
    SynthDataset,
)
from tunestudy.config.estimate import Claim, EstimateSettings, Prior
from tunestudy.config.fetch import FetchSettings
from tunestudy.config.judge import Judge
from tunestudy.config.merge import MergeInput, MergeStage, Weights
from tunestudy.config.model import CharacterTokenizer, ModelConfig
from tunestudy.config.order import ColumnOrder, ScoreOrder
from tunestudy.config.resources import RaySettings, Resources, Retries, SlurmSettings
from tunestudy.config.stage import Quantization, TrainStage
from tunestudy.config.study import ReportSettings, Study, Variant
from tunestudy.config.trackers import TrackerSettings
from tunestudy.study.nearest import nearest
from tunestudy.study.source import KeyPath

Level = Literal[
    "study",
    "model",
    "tokenizer",
    "dataset",
    "fetch",
    "drawn",
    "benchmark",
    "judge",
    "stage",
    "merge",
    "merge_input",
    "merge_base",
    "adapter",
    "expert",
    "quantization",
    "components",
    "rope2d",
    "pyramid",
    "c_abstractor",
    "mixture",
    "order",
    "variant",
    "resources",
    "slurm",
    "ray",
    "retries",
    "report",
    "estimate",
    "trackers",
    "alerts",
    "band",
    "prior",
    "claim",
]

STAGE_TYPES = ("train", "merge")

KEYS: dict[Level, frozenset[str]] = {
    "study": frozenset({*Study.model_fields, "defaults", "stages", "tiny"}),
    "model": frozenset(ModelConfig.model_fields),
    "tokenizer": frozenset(CharacterTokenizer.model_fields),
    "dataset": frozenset().union(
        *(one.model_fields for one in (FileDataset, HubDataset, DatacompDataset, DigitsDataset, SynthDataset))
    ),
    "fetch": frozenset(FetchSettings.model_fields),
    "drawn": frozenset(DrawnPool.model_fields),
    "benchmark": frozenset().union(*(b.model_fields for b in KINDS)) - {"definition"},
    "judge": frozenset(Judge.model_fields) - {"prompts"},
    "stage": frozenset(TrainStage.model_fields),
    "merge": frozenset(MergeStage.model_fields),
    "merge_input": frozenset(MergeInput.model_fields),
    "merge_base": frozenset(Weights.model_fields),
    "adapter": frozenset().union(
        *(a.model_fields for a in (LoraAdapter, DoraAdapter, SoraAdapter, SdoraAdapter, MoleAdapter))
    ),
    "expert": frozenset(MoleExpert.model_fields),
    "quantization": frozenset(Quantization.model_fields),
    "components": frozenset(VisionComponents.model_fields),
    "rope2d": frozenset(Rope2d.model_fields),
    "pyramid": frozenset(Pyramid.model_fields),
    "c_abstractor": frozenset(CAbstractor.model_fields),
    "mixture": frozenset(MixturePart.model_fields),
    "order": frozenset({*ColumnOrder.model_fields, *ScoreOrder.model_fields}),
    "variant": frozenset({*Variant.model_fields, "overrides", "from", "matrix", "exclude"}),
    "resources": frozenset(Resources.model_fields),
    "slurm": frozenset(SlurmSettings.model_fields),
    "ray": frozenset(RaySettings.model_fields),
    "retries": frozenset(Retries.model_fields),
    "report": frozenset(ReportSettings.model_fields),
    "estimate": frozenset(EstimateSettings.model_fields),
    "trackers": frozenset(TrackerSettings.model_fields),
    "alerts": frozenset(AlertSettings.model_fields),
    "band": frozenset(Band.model_fields),
    "prior": frozenset(Prior.model_fields),
    "claim": frozenset(Claim.model_fields),
}

HOME: dict[Level, str] = {
    "study": "at the top of the file",
    "model": "under `model:`",
    "tokenizer": "under `model.tokenizer:`",
    "dataset": "in an entry of `datasets:`",
    "fetch": "under a data set's `fetch:`",
    "drawn": "under a data set's `drawn:`",
    "benchmark": "in an entry of `benchmarks:`",
    "judge": "under a benchmark's `judge:`",
    "stage": "in a stage (`defaults:`, an entry of `stages:`, or a variant's `overrides:`)",
    "merge": "in a stage that merges (`type: merge`)",
    "merge_input": "in an entry of a merging stage's `models:`",
    "merge_base": "under a merging stage's `base:`",
    "adapter": "under a stage's `adapter:`",
    "expert": "in an entry of `adapter.experts:`",
    "quantization": "under a stage's `quantization:`",
    "components": "under a stage's `components:`",
    "rope2d": "under `components.rope2d:`",
    "pyramid": "under `components.pyramid:`",
    "c_abstractor": "under `components.c_abstractor:`",
    "mixture": "in an item of a stage's `data:`",
    "order": "under a stage's `order:`",
    "variant": "in an entry of `variants:`",
    "resources": "under `resources:`",
    "slurm": "under `resources.slurm:`",
    "ray": "under `resources.ray:`",
    "retries": "under `resources.retries:`",
    "report": "under `report:`",
    "estimate": "under `estimate:`",
    "trackers": "under `trackers:`",
    "alerts": "under `alerts:`",
    "band": "in an entry of `expect:`",
    "prior": "in an entry of `estimate.stages:`",
    "claim": "in an entry of `estimate.claims:`",
}
"""Where a key of that level belongs, as the end of a sentence."""


def mappings(values: dict[str, Any]) -> Iterator[tuple[Level, KeyPath, dict[str, Any]]]:
    """Every mapping of the file with keys of its own, outer before inner; user-named entries are looked through."""
    yield "study", (), values
    for level in ("model", "resources", "report", "estimate", "trackers", "alerts"):
        if isinstance(values.get(level), dict):
            yield level, (level,), values[level]
    if isinstance(estimate := values.get("estimate"), dict):
        for level, path, entry in (
            *_entries("prior", estimate, ("stages",)),
            *_entries("claim", estimate, ("claims",)),
        ):
            yield level, ("estimate", *path), entry
    resources = values.get("resources")
    part: Level
    for part in ("slurm", "ray", "retries"):
        if isinstance(resources, dict) and isinstance(resources.get(part), dict):
            yield part, ("resources", part), resources[part]
    yield from _bands(values)
    model = values.get("model")
    if isinstance(model, dict) and isinstance(model.get("tokenizer"), dict):
        yield "tokenizer", ("model", "tokenizer"), model["tokenizer"]
    for _, path, dataset in _entries("dataset", values, ("datasets",)):
        yield "dataset", path, dataset
        for part in ("fetch", "drawn"):
            if isinstance(dataset.get(part), dict):
                yield part, (*path, part), dataset[part]
    for _, path, benchmark in _entries("benchmark", values, ("benchmarks",)):
        yield "benchmark", path, benchmark
        if isinstance(benchmark.get("judge"), dict):
            yield "judge", (*path, "judge"), benchmark["judge"]
    for path, stage in stage_mappings(values):
        if merges(values, path):
            yield "merge", path, stage
            yield from _inside_merge(path, stage)
            continue
        yield "stage", path, stage
        yield from _inside_stage(path, stage)
    yield from _entries("variant", values, ("variants",))


def stage_mappings(values: dict[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every mapping of stage settings: `defaults`, `stages.*`, `variants.*.overrides.*`."""
    if isinstance(values.get("defaults"), dict):
        yield ("defaults",), values["defaults"]
    for _, path, stage in _entries("stage", values, ("stages",)):
        yield path, stage
    for _, path, variant in _entries("variant", values, ("variants",)):
        for _, stage_path, stage in _entries("stage", variant, ("overrides",)):
            yield (*path, *stage_path), stage


def merges(values: dict[str, Any], path: KeyPath) -> bool:
    """Whether a mapping of stage settings, in an override, too, is of a stage that merges, or that looks like one."""
    stages = values.get("stages")
    stage = stages.get(path[-1]) if isinstance(stages, dict) and path[0] != "defaults" else None
    written = stage.get("type", "train") if isinstance(stage, dict) else "train"
    return isinstance(written, str) and nearest(written, STAGE_TYPES) == "merge"


def _inside_merge(path: KeyPath, stage: dict[str, Any]) -> Iterator[tuple[Level, KeyPath, dict[str, Any]]]:
    if isinstance(stage.get("base"), dict):
        yield "merge_base", (*path, "base"), stage["base"]
    for _, inner, model in _entries("merge_input", stage, ("models",)):
        yield "merge_input", (*path, *inner), model


def _inside_stage(path: KeyPath, stage: dict[str, Any]) -> Iterator[tuple[Level, KeyPath, dict[str, Any]]]:
    if isinstance(stage.get("adapter"), dict):
        yield "adapter", (*path, "adapter"), stage["adapter"]
        for _, inner, expert in _entries("expert", stage["adapter"], ("experts",)):
            yield "expert", (*path, "adapter", *inner), expert
    if isinstance(stage.get("quantization"), dict):
        yield "quantization", (*path, "quantization"), stage["quantization"]
    if isinstance(components := stage.get("components"), dict):
        yield "components", (*path, "components"), components
        for level in ("rope2d", "pyramid", "c_abstractor"):
            if isinstance(components.get(level), dict):
                yield level, (*path, "components", level), components[level]
    if isinstance(order := stage.get("order"), dict):
        yield "order", (*path, "order"), order
        if isinstance(order.get("scorer"), dict):
            yield "model", (*path, "order", "scorer"), order["scorer"]
    for key in ("data", "eval_data"):
        parts = stage.get(key)
        if isinstance(parts, dict):
            yield "mixture", (*path, key), parts
        for index, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict):
                yield "mixture", (*path, key, index), part


def _bands(values: dict[str, Any]) -> Iterator[tuple[Level, KeyPath, dict[str, Any]]]:
    """Entries of `expect:`, each one band or a list of them."""
    expected = values.get("expect")
    for name, entry in expected.items() if isinstance(expected, dict) else ():
        if isinstance(entry, dict):
            yield "band", ("expect", name), entry
        for index, one in enumerate(entry if isinstance(entry, list) else ()):
            if isinstance(one, dict):
                yield "band", ("expect", name, index), one


def _entries(level: Level, values: dict[str, Any], path: KeyPath) -> Iterator[tuple[Level, KeyPath, dict[str, Any]]]:
    entries = values.get(str(path[-1]))
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict):
            yield level, (*path, name), entry

"""Names that refer to something: data sets, the baseline, benchmarks, files and folders."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tunestudy.config.benchmark import LmEval
from tunestudy.config.conditions import condition_in
from tunestudy.config.data import DatacompDataset, FileDataset, MixturePart, SynthDataset
from tunestudy.config.errors import Place, StudyError
from tunestudy.config.model import ModelConfig
from tunestudy.config.order import ScoreOrder
from tunestudy.config.paths import located
from tunestudy.config.stage import SLICING, TrainStage
from tunestudy.config.study import Study
from tunestudy.study.adapter_options import adapter_mistakes, model_sizes
from tunestudy.study.benchmarks import text_only
from tunestudy.study.components import component_mistakes, model_type_of
from tunestudy.study.deepspeed import deepspeed_mistakes
from tunestudy.study.expectations import expectation_mistakes
from tunestudy.study.merges import merge_mistakes, mole_mistakes
from tunestudy.study.nearest import did_you_mean, nearest
from tunestudy.study.problems import Mistake
from tunestudy.study.source import KeyPath

LONGEST_NAME = 100
LAID_OVER = ("adapter_config.json", "model.safetensors", "mole_config.json")
"""Files by which a folder holds weights to be laid over a model."""
_SAFE_NAME = re.compile(rf"[^./\\\s-][^/\\\n\r\t\0]{{0,{LONGEST_NAME - 1}}}")

Locate = Callable[[KeyPath], Place]


def reference_mistakes(study: Study, locate: Locate, folder: Path) -> Iterator[StudyError]:
    """Every name that refers to nothing; `folder` is where relative paths start."""
    yield from _names(study, locate)
    yield from _model(study.model, locate, folder, ("model",))
    yield from _weights(study, locate, folder)
    yield from _files(study, locate, folder)
    for name, benchmark in study.benchmarks.items():
        if isinstance(benchmark, LmEval):
            yield from _tasks(locate, benchmark, folder, ("benchmarks", name, "tasks"))
            continue
        yield from _dataset(study, locate, benchmark.dataset, ("benchmarks", name, "dataset"))
    checked: set[int] = set()
    sizes = model_sizes(study.model, folder)
    engine = "single" if study.resources.ranks == 1 else "ddp"
    model_type = model_type_of(sizes, study.model.architecture)
    for name, message in text_only(study, model_type, sizes):
        yield StudyError(locate(("benchmarks", name, "type")), message)
    for variant_name, variant in study.variants.items():
        found = (*component_mistakes(variant.stages, model_type), *merge_mistakes(variant.stages, folder))
        for inner, message in found:
            yield StudyError(locate(("variants", variant_name, "stages", *inner)), message)
        for stage_name, stage in variant.training.items():
            if id(stage) not in checked:
                checked.add(id(stage))
                path = ("variants", variant_name, "stages", stage_name)
                yield from _stage(study, locate, stage, path)
                if isinstance(stage.order, ScoreOrder) and isinstance(stage.order.scorer, ModelConfig):
                    yield from _model(stage.order.scorer, locate, folder, (*path, "order", "scorer"))
                used = engine if stage.engine == "auto" or engine == "single" else stage.engine
                of_adapter = (*adapter_mistakes(stage, sizes, engine=used), *mole_mistakes(stage))
                for inner, message in (*_engine_mistakes(study, stage), *of_adapter, *deepspeed_mistakes(stage)):
                    yield StudyError(locate((*path, *inner)), message)
    yield from _seeds(study, locate)
    yield from _report(study, locate)
    yield from _estimate(study, locate)
    yield from expectation_mistakes(study, locate)


def _estimate(study: Study, locate: Locate) -> Iterator[StudyError]:
    """Costs are stated of stages, or of a stage as a variant has it."""
    known = [stage for variant in study.variants.values() for stage in variant.stages]
    known += [f"{name}.{stage}" for name, variant in study.variants.items() for stage in variant.stages]
    for section, entries in (("stages", study.estimate.stages), ("claims", study.estimate.claims)):
        for name in entries:
            if name not in known:
                message = f"no variant has a stage `{name}`; {did_you_mean(name, dict.fromkeys(known))}"
                yield StudyError(locate(("estimate", section, name)), message)


def _tasks(locate: Locate, benchmark: LmEval, folder: Path, path: KeyPath) -> Iterator[StudyError]:
    """What looks like a path must be there; whether a name is known, only lm-evaluation-harness can say."""
    for name in benchmark.named:
        if (os.sep in name or name.endswith((".yaml", ".yml"))) and not located(folder, name).exists():
            message = (
                f"there is no `{name}` beside the study file; give a task's name, its YAML file, or a folder of them"
            )
            yield StudyError(locate(path), message)


def _engine_mistakes(study: Study, stage: TrainStage) -> Iterator[Mistake]:
    """An engine that cannot share what the study has between as many ranks, at its key."""
    ranks = study.resources.ranks
    if stage.engine == "single" and ranks > 1:
        yield Mistake(("engine",), f"single is one rank, and resources.ranks is {ranks}")
    if isinstance(stage.order, ScoreOrder) and stage.order.scorer == "start" and stage.engine in SLICING and ranks > 1:
        cure = "use base or a smaller model, which every rank holds whole, or order by a column"
        yield Mistake(("order",), f"scorer: start cannot score in slices under {stage.engine}; {cure}")
    if stage.device_map is not None and (ranks > 1 or stage.engine not in ("auto", "single")):
        message = "spreads the model of a single rank; set resources.ranks: 1 and engine: single"
        yield Mistake(("device_map",), message)
    if study.model.dtype == "float16" and not stage.bf16 and stage.engine in SLICING and ranks > 1:
        why = "a model in float16 needs a loss scaler, which does not see other ranks' slices"
        yield Mistake(("engine",), f"{why} under {stage.engine}; set bf16: true, or dtype: bfloat16 of the model")


def _names(study: Study, locate: Locate) -> Iterator[StudyError]:
    """Names become files and folders below the results, so they must not lead anywhere else."""
    named: list[KeyPath] = [("datasets", name) for name in study.datasets]
    named += [("benchmarks", name) for name in study.benchmarks]
    for variant_name, variant in study.variants.items():
        named.append(("variants", variant_name))
        named += [("variants", variant_name, "stages", stage_name) for stage_name in variant.stages]
    told = set()
    for path in named:
        name = str(path[-1])
        if not _SAFE_NAME.fullmatch(name) and (kind := (path[-2], name)) not in told:
            told.add(kind)
            yield StudyError(
                locate(path),
                f"`{name}` becomes the name of a file or folder: it may not hold `/`, `\\` or line breaks, not begin "
                f"with `.` or `-`, and not be longer than {LONGEST_NAME} characters",
            )


def _model(model: ModelConfig, locate: Locate, folder: Path, path: KeyPath) -> Iterator[StudyError]:
    """A hub id looks like `organisation/name`; everything else, and a path that starts like one, must be there."""
    for key, name in (
        ("model_name_or_path", model.model_name_or_path),
        ("tokenizer", model.tokenizer if isinstance(model.tokenizer, str) else None),
    ):
        if name is None or located(folder, name).is_dir():
            continue
        if located(folder, name).exists():
            yield StudyError(locate((*path, key)), f"`{name}` is a file; give the folder that holds config.json")
        elif not _looks_like_hub_id(name):
            near = nearest(Path(name).name, _folders_beside(located(folder, name)))
            hint = f"; did you mean `{Path(name).parent / near}`?" if near else ""
            yield StudyError(
                locate((*path, key)),
                f"there is no folder `{name}` beside the study file, and it is no hub id (organisation/name){hint}",
            )


def _folders_beside(path: Path) -> list[str]:
    """Folders that lie where `path` would."""
    return [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []


def _weights(study: Study, locate: Locate, folder: Path) -> Iterator[StudyError]:
    """What is laid over the model is there, and nothing trains on it."""
    weights = study.model.weights
    if weights is None:
        return
    where = locate(("model", "weights"))
    if not any((located(folder, weights) / name).is_file() for name in LAID_OVER):
        yield StudyError(where, f"`{weights}` is no folder with one of {', '.join(LAID_OVER)} in it")
    if trained := next((name for name, variant in study.variants.items() if variant.stages), None):
        yield StudyError(where, f"is for evaluation alone, and `{trained}` trains; give it `stages: []`")


def _looks_like_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and "\\" not in name


BY_THE_HUB = "`name: mlfoundations/datacomp_small` in place of `path` has `tunestudy fetch` bring DataComp's metadata"


def _files(study: Study, locate: Locate, folder: Path) -> Iterator[StudyError]:
    for name, dataset in study.datasets.items():
        if isinstance(dataset, FileDataset | DatacompDataset) and dataset.path is not None:
            cure = BY_THE_HUB if isinstance(dataset, DatacompDataset) else ""
            yield from _file(located(folder, dataset.path), dataset.path, locate(("datasets", name, "path")), cure)
        if isinstance(dataset, SynthDataset) and dataset.font is not None:
            yield from _file(located(folder, dataset.font), dataset.font, locate(("datasets", name, "font")))


def _file(path: Path, written: str, where: Place, cure: str = "") -> Iterator[StudyError]:
    if not path.exists():
        siblings = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        hint = f"; {did_you_mean(path.name, siblings)}" if siblings else ""
        hint = f"; {cure}" if cure else hint
        yield StudyError(where, f"there is no file `{written}` (relative to the study file){hint}")
    elif path.is_file() and path.stat().st_size == 0:
        yield StudyError(where, f"`{written}` is empty")
    elif path.is_dir() and not any(path.iterdir()):
        yield StudyError(where, f"the folder `{written}` is empty")


def _stage(study: Study, locate: Locate, stage: TrainStage, path: KeyPath) -> Iterator[StudyError]:
    for key, parts in (("data", stage.data), ("eval_data", stage.eval_data)):
        yield from _twice(locate, key, parts, path)
        for index, part in enumerate(parts):
            yield from _dataset(study, locate, part.dataset, (*path, key, index))
    if stage.adapter is None and stage.train == "none" and not stage.trains_nothing:
        yield StudyError(locate((*path, "train")), "`none` without an adapter leaves nothing to train")
    held_out = any(study.datasets[part.dataset].held_out for part in stage.data if part.dataset in study.datasets)
    if (
        stage.load_best_model_at_end
        and stage.metric_for_best_model == "eval_loss"
        and not (stage.eval_data or held_out)
    ):
        yield StudyError(
            locate((*path, "load_best_model_at_end")),
            "needs rows to evaluate on: set `held_out` on a data set, or `eval_data`",
        )


def _twice(locate: Locate, key: str, parts: Sequence[MixturePart], path: KeyPath) -> Iterator[StudyError]:
    names = [part.dataset for part in parts]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield StudyError(locate((*path, key, index)), f"`{name}` stands twice; give it a larger `weight:` instead")


def _dataset(study: Study, locate: Locate, reference: str, path: KeyPath) -> Iterator[StudyError]:
    name, _, share = reference.partition("@")
    if name not in study.datasets:
        yield StudyError(locate(path), f"there is no data set `{name}`; {did_you_mean(name, study.datasets)}")
    elif share not in ("", "held_out"):
        yield StudyError(locate(path), f"`{name}@{share}` means nothing; `{name}@held_out` is its held-out share")
    elif share and not study.datasets[name].held_out:
        yield StudyError(locate(path), f"`{name}` holds nothing out; set `held_out: 0.1` in its entry of `datasets:`")


def _seeds(study: Study, locate: Locate) -> Iterator[StudyError]:
    for index, seed in enumerate(study.seeds):
        if seed in study.seeds[:index]:
            yield StudyError(
                locate(("seeds", index)), f"seed {seed} stands twice; one seed twice is one trial, not two"
            )
        if not 0 <= seed < 2**32:
            yield StudyError(locate(("seeds", index)), f"a seed is a number from 0 to 2³² − 1, got {seed}")


def _report(study: Study, locate: Locate) -> Iterator[StudyError]:
    baseline = study.report.baseline
    if baseline is not None and baseline not in study.variants:
        yield StudyError(
            locate(("report", "baseline")),
            f"there is no variant `{baseline}`; {did_you_mean(baseline, study.variants)}",
        )
    for mean, condition in study.report.require.items():
        variant, _, benchmark = mean.rpartition(".")
        where = locate(("report", "require", mean))
        try:
            condition_in(condition)
        except ValueError as error:
            yield StudyError(where, str(error))
        if variant != "*" and variant not in study.variants:
            yield StudyError(where, f"there is no variant `{variant}`; {did_you_mean(variant, study.variants)}")
        if benchmark not in study.benchmarks:
            yield StudyError(where, f"there is no benchmark `{benchmark}`; {did_you_mean(benchmark, study.benchmarks)}")

"""`tunestudy eval --model PATH --benchmarks a b c --output results.csv`: a model scored without a study file.

A small study is written for it and run like any other: one variant without stages, the benchmarks, their data.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tunestudy.config.benchmark import Compat
from tunestudy.config.definition import definition, names
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.model import DType
from tunestudy.launch.run import run_study
from tunestudy.launch.table import write_table
from tunestudy.launch.torchrun import Command
from tunestudy.launch.without_study import written
from tunestudy.launch.without_study.found_model import FoundModel, find_model, seen_from
from tunestudy.records.atomic import remove_tree, write_text
from tunestudy.records.layout import StudyDir
from tunestudy.study.benchmarks import OTHER_NAMES, benchmark_named, public_data, tiny_data
from tunestudy.study.load import load_study
from tunestudy.study.nearest import did_you_mean, nearest
from tunestudy.study.problems import raise_all

ENDINGS = ("parquet", "jsonl", "tsv", "json", "csv", "arrow")
"""Of files with a benchmark's records, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a model is to be scored; None leaves a benchmark's own default."""

    benchmarks: tuple[str, ...]
    data: Path | None = None
    """A folder with `<benchmark>.jsonl` or the like, or a folder `<benchmark>`, for each."""
    tiny: bool = False
    """Small generated records in place of the public ones."""
    batch_size: int | None = None
    limit: int | None = None
    compat: str | None = None
    num_gpus: int = 1
    """Ranks: on a machine without GPUs processes."""
    dtype: str | None = None


def evaluate_model(
    model: str,
    wanted: Wanted,
    results: Path,
    *,
    output: Path | None,
    quiet: bool = False,
    command: Command | None = None,
) -> Exit:
    """Score a model folder, a PEFT adapter, a result or checkpoint of tunestudy, or a hub id, and write the table.

    Again with the same model: what is scored already stays. Raises StudyError for a benchmark or a model that is
    unknown, before anything is loaded.
    """
    kinds = benchmark_names(wanted.benchmarks)
    for option, value, known in (
        ("--compat", wanted.compat, get_args(Compat)),
        ("--dtype", wanted.dtype, get_args(DType)),
    ):
        if value is not None and value not in known:
            raise StudyError(option, f"must be one of {', '.join(known)}; got `{value}`")
    data = {kind: data_of(kind, wanted) for kind in kinds}
    found = find_model(model)
    name = study_name(found, tiny=wanted.tiny)
    folder = StudyDir(results / name)
    is_new = not folder.root.exists()
    write_text(folder.study_yaml, study_text(name, found, kinds, data, wanted, folder.root))
    try:
        loaded = load_study(folder.study_yaml)
    except StudyError:
        if is_new:
            remove_tree(folder.root)
        raise
    code = run_study(loaded, results, quiet=quiet, command=command)
    if code == Exit.DONE and output is not None:
        write_table(folder, output)
    return code


def benchmark_names(written: Sequence[str]) -> list[str]:
    """Names of benchmarks from the words of the command line; commas part them, too. StudyError for unknown ones."""
    words = [word for text in written for word in text.split(",") if word]
    if not words:
        raise StudyError("--benchmarks", f"name at least one of {', '.join(names())}")
    known = {word: benchmark_named(word) for word in words}
    raise_all(
        [
            StudyError(
                "--benchmarks", f"there is no benchmark `{word}`; {did_you_mean(word, (*names(), *OTHER_NAMES))}"
            )
            for word, found in known.items()
            if found is None
        ]
    )
    for word, found in known.items():
        if word != found:
            print(f"understood --benchmarks: {word} → {found}", file=sys.stderr)
    return list(dict.fromkeys(filter(None, known.values())))


def data_of(kind: str, wanted: Wanted) -> dict[str, Any]:
    """The data set that a benchmark reads, its path absolute. StudyError when there is none."""
    if wanted.tiny:
        if (drawn := tiny_data(definition(kind))) is None:
            raise StudyError("--tiny", f"{kind} has no small generated set; leave it out")
        return drawn
    if wanted.data is not None:
        return {"path": str(_file_of(kind, wanted.data.resolve()))}
    if (public := public_data(definition(kind))) is None:
        raise StudyError("--data", f"the records of {kind} are on no hub; give a folder with {kind}.jsonl in it")
    return public


def _file_of(kind: str, folder: Path) -> Path:
    """The file or folder of a benchmark, under its name here or one that it has elsewhere."""
    if not folder.is_dir():
        raise StudyError("--data", f"there is no folder {folder}")
    for stem in (kind, *(other for other, ours in OTHER_NAMES.items() if ours == kind)):
        for path in (*(folder / f"{stem}.{ending}" for ending in ENDINGS), folder / stem):
            if path.exists():
                return path
    close = nearest(kind, [path.stem for path in folder.iterdir()])
    hint = f"; nearest there is `{close}`" if close else ""
    raise StudyError("--data", f"{folder} holds no {kind}.({'|'.join(ENDINGS)}) and no folder {kind}{hint}")


def study_name(found: FoundModel, *, tiny: bool) -> str:
    """`eval-<model>-<hash>`: the same for the same model, whatever is asked of it."""
    facts = json.dumps([found.settings, found.seed, tiny], sort_keys=True)
    return f"eval-{found.label}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def study_text(
    name: str, found: FoundModel, kinds: Sequence[str], data: dict[str, dict[str, Any]], wanted: Wanted, root: Path
) -> str:
    """The study file; paths are relative to its folder, so that results name no place of this machine."""
    options = {"batch_size": wanted.batch_size, "limit": wanted.limit, "compat": wanted.compat}
    given = {key: value for key, value in options.items() if value is not None}
    dtype = {"dtype": wanted.dtype} if wanted.dtype else {}
    values = {
        "study": name,
        "description": f"{found.label} as it comes",
        "seeds": [found.seed],
        "model": {**found.relative_to(root), **dtype},
        "datasets": {kind: _relative(data[kind], root) for kind in kinds},
        "benchmarks": {kind: {"type": kind, "dataset": kind, **given} for kind in kinds},
        "variants": {found.label: {"stages": []}},
        "resources": {"ranks": wanted.num_gpus, "slots": 1},
    }
    return written.study_text(values)


def _relative(dataset: dict[str, Any], root: Path) -> dict[str, Any]:
    if "path" not in dataset:
        return dataset
    return {**dataset, "path": seen_from(root, dataset["path"])}

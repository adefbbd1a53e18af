"""Which data sets of the hub tasks of lm-evaluation-harness read, and reading them at the commits of a lock.

`python -m tunestudy.bench.lm_eval_data REQUEST` finds out for `tunestudy fetch`. REQUEST is a JSON file:

    {"benchmarks": {"arc": ["arc_easy"]}, "base": "/…/folder of the study file", "out": "/…/file"}

and `out` becomes

    {"arc_easy": {"harness": "0.4.13", "reads": [["allenai/ai2_arc", "ARC-Easy", null]], "why": null, "metrics": []}}

with id, subset and revision; `reads` is null where only running the task would tell, and `why` says so. `metrics` are
those that `evaluate` loads from the hub, at no commit of a lock. A mistake of the user's stands there as
{"error": …, "key": …}.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tunestudy.bench.lm_eval_metrics import loaded_by, none_loaded
from tunestudy.bench.lm_eval_tasks import load, version
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, may_close
from tunestudy.data.hub.view import folder_of
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.hub_cache import hub_cache, snapshot_folder

Read = tuple[str, str | None, str | None]
"""Id, subset, revision."""


class UntoldError(Exception):
    """Which data a task reads does not stand in its file; the message says why."""


def main(path: str) -> int:
    """Exit code of `config.errors.Exit`."""
    request = read_json(Path(path))
    found: dict[str, Any] = {}
    try:
        for benchmark, names in request["benchmarks"].items():
            for name in names:
                found[name] = told_of(benchmark, name, Path(request["base"]))
    except StudyError as error:
        write_json(Path(request["out"]), {"error": error.message, "key": error.place.key})
        return int(error.exit_code)
    write_json(Path(request["out"]), found)
    return int(Exit.DONE)


def told_of(benchmark: str, name: str, base_dir: Path) -> dict[str, Any]:
    """What the lock keeps of one task, group or tag. StudyError for one that is unknown."""
    metrics: set[str] = set()
    try:
        configs = configs_of(benchmark, name, base_dir)
        metrics = loaded_by(configs)
        reads: list[Read] | None = sorted(set(_reads(configs)), key=str)
        why = None
    except UntoldError as error:
        reads, why = None, str(error)
    return {"harness": version(), "reads": reads, "why": why, "metrics": sorted(metrics)}


def configs_of(benchmark: str, name: str, base_dir: Path) -> list[dict[str, Any]]:
    """The configurations of all tasks behind a name, while no data and no metrics are loaded."""
    found: list[dict[str, Any]] = []

    def noted(config: dict[str, Any]) -> Any:
        found.append(config)
        task = object.__new__(plain)  # groups take tasks alone, and making one would load its data
        task._config = SimpleNamespace(task=config["task"])
        return task

    try:
        from lm_eval.tasks import _factory
    except ImportError as error:
        if _is_installed():
            raise UntoldError(f"lm-evaluation-harness {version()} is built otherwise") from error
        load(benchmark, [name], base_dir)  # says how to install it
        raise AssertionError("load refuses without the harness") from error
    factory, plain = _factory.TaskFactory, _factory.ConfigurableTask
    build = factory._build_task
    factory._build_task = lambda self, entry, overrides: noted(self._load_full_config(entry, overrides))
    _factory.ConfigurableTask = noted
    try:
        with none_loaded():
            load(benchmark, [name], base_dir)
    finally:
        factory._build_task, _factory.ConfigurableTask = build, plain
    return found


def _is_installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("lm_eval") is not None


def _reads(configs: list[dict[str, Any]]) -> Iterator[Read]:
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    for config in configs:
        path, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
        if "class" in config or callable(config.get("custom_dataset")) or not isinstance(path, str):
            raise UntoldError(f"{config['task']} loads its data by code of its own")
        if path in _PACKAGED_DATASETS_MODULES or path.startswith((".", "/")):
            if "://" in str(options):
                raise UntoldError(f"{config['task']} reads files by URL")
            continue
        if "data_files" in options or "data_dir" in options:
            raise UntoldError(f"{config['task']} reads single files of {path}")
        yield path, config.get("dataset_name"), options.get("revision")


@contextmanager
def at_commits(revisions: Mapping[str, str], views: Path) -> Iterator[None]:
    """Meanwhile `datasets` reads these data sets, by their ids, at these revisions.

    The harness has no way to say so. Offline they are read from the hub's cache: `datasets` by itself would take
    whatever it prepared last. `views`: where folders of single subsets may be made.
    """
    import datasets

    real = datasets.load_dataset

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        if path not in revisions:
            return real(path, name, **options)
        snapshot = snapshot_folder(hub_cache(), "dataset", path, revisions[path])
        if os.environ.get("HF_DATASETS_OFFLINE") == "1" and snapshot.is_dir():
            return real(str(folder_of(snapshot, name, views)), name, **{**options, "revision": None})
        return real(path, name, **{**options, "revision": revisions[path]})

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = real


if __name__ == "__main__":
    may_close()
    go_on_unheard()
    sys.exit(main(sys.argv[1]))

"""Finding tasks of lm-evaluation-harness without reading all fourteen thousand files that define some."""

import contextlib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.paths import located

UNLOADABLE = (
    *(ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    yaml.YAMLError,
)
"""What files of tasks, and the modules beside them, raise."""
INSTALL = "needs lm-evaluation-harness: pip install 'tunestudy[lm-eval]'"


def version() -> str:
    """Of the installed harness."""
    return metadata.version("lm_eval")


def load(benchmark: str, names: Sequence[str], base_dir: Path) -> dict[str, Any]:
    """The harness's own {"tasks": …, "groups": …, "group_map": …} of all `names`: names or paths. Raises StudyError."""
    where = at(f"benchmarks.{benchmark}.tasks")
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError as error:
        message = f"type: lm_eval {INSTALL} ({error})"
        raise StudyError(at(f"benchmarks.{benchmark}.type"), message, exit_code=Exit.PREFLIGHT_REFUSED) from None
    found: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in names:
        try:
            one = _local(located(base_dir, name)) if located(base_dir, name).exists() else _shipped(name)
        except StudyError as error:
            raise StudyError(where, error.message, exit_code=error.exit_code) from error
        except UNLOADABLE as error:
            message = f"`{name}` cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}"
            raise StudyError(where, message, exit_code=Exit.PREFLIGHT_REFUSED) from error
        for key, values in one.items():
            found[key].update(values)
    if not found["tasks"]:
        raise StudyError(where, f"{', '.join(names)} holds no task", exit_code=Exit.PREFLIGHT_REFUSED)
    return found


def _local(path: Path) -> dict[str, Any]:
    """A task's file, or all of a folder. Relative paths of data start at that folder."""
    from lm_eval.tasks import TaskManager

    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    with contextlib.chdir(folder):
        if path.is_dir():
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            loaded: dict[str, Any] = manager.load([*(manager.all_groups or manager.all_subtasks)])
        else:
            loaded = TaskManager(include_defaults=False).load([str(path)])
    return loaded


def _shipped(name: str) -> dict[str, Any]:
    """A task by name: from a file that is called like it if there is one, else after reading them all."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    home = Path(lm_eval.tasks.__file__).parent
    plain = name.replace("_", "").isalnum()
    files = [*home.rglob(f"{name}.yaml"), *home.rglob(f"_{name}.yaml")] if plain else []
    managers = (TaskManager(include_path=str(file.parent), include_defaults=False) for file in files)
    manager = next((one for one in managers if name in one.all_tasks), None) or TaskManager()
    if name not in manager.all_tasks:
        near = get_close_matches(name, manager.all_tasks, 1)
        hint = f"did you mean {near[0]}?" if near else "`lm-eval ls tasks` lists all"
        raise StudyError(at(""), f"lm-evaluation-harness {version()} has no task `{name}`; {hint}")
    loaded: dict[str, Any] = manager.load([name])
    return loaded

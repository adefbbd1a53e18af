"""Metrics of tasks of lm-evaluation-harness that `evaluate` brings from the hub, before all is trained and answered.

Which they are only the harness can tell, in a process of its own, some seconds long: a lock holds it for its tasks.
"""

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tunestudy.config.errors import StudyError
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.inputs import ON, RUN_ONCE, no_answer
from tunestudy.preflight.points import Point, answer_of, ok, refusal, some, warning
from tunestudy.records.atomic import read_object
from tunestudy.records.hub_cache import OFFLINE

LOOKS = "tunestudy.bench.lm_eval_data"
PATIENCE_S = 60.0
_KINDS = ("metric", "comparison", "measurement")
_HASH = 64
"""Characters of the name of a folder that holds one version of a metric."""


class Loaded(NamedTuple):
    """A metric that comes from the hub."""

    benchmark: str
    task: str
    metric: str


def metric_problems(asked: Asked) -> Iterator[StudyError]:
    """Those that are neither here nor to be had: a job would find out when it is trained and has begun to answer."""
    tasks = tasks_of(asked) if asked.is_local else {}
    environment, unlocked = _environment(asked), _unlocked(asked, tasks)
    locked = [one for one in _locked(asked, tasks) if not is_here(one.metric, environment)]
    if not (locked or unlocked) or not (why := _unavailable(environment)):
        return
    found = _found(told_of(asked, unlocked), tasks)
    for one in (*locked, *(one for one in found if not is_here(one.metric, environment))):
        told = f"`evaluate` loads {one.metric} of {one.task} from the hub, where it is not cached, and {why}"
        yield StudyError(f"benchmarks.{one.benchmark}.tasks", f"{told}; {RUN_ONCE}")


def metric_points(asked: Asked) -> Iterator[Point]:
    """Those of tasks that no lock tells of, which has a point of its own; none without such tasks."""
    tasks = _unlocked(asked, tasks_of(asked))
    if not tasks:
        return
    told = told_of(asked, tasks)
    if "error" in told:
        yield refusal("metrics", f"{told['key']}: {told['error']}")
    elif not told:
        yield warning(
            "metrics", "the harness gives no answer which ones it loads from the hub", "`tunestudy fetch STUDY`"
        )
    elif found := _found(told, tasks):
        here = [one for one in found if is_here(one.metric, _environment(asked))]
        if absent := [f"{one.metric} of {one.benchmark}" for one in found if one not in here]:
            yield warning("metrics", f"`evaluate` loads {some(absent)} from the hub at run time", RUN_ONCE)
        if here:
            yield ok("metrics", f"`evaluate` has {some([one.metric for one in here])} in its cache")
    else:
        yield ok("metrics", f"{some(list(tasks))}: none is loaded from the hub")


def tasks_of(asked: Asked) -> dict[str, Sequence[str]]:
    """Names of tasks by benchmark, of what is still to do; without a plan of all."""
    locking = asked.loaded.locking
    if locking is None or not asked.starts_here or importlib.util.find_spec("lm_eval") is None:
        return {}
    wanted = {name for job in asked.unfinished for name in job.evaluations}
    return {name: tasks for name, tasks in locking.tasks.items() if name in wanted or not asked.unfinished}


def told_of(asked: Asked, tasks: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the harness tells of each task; empty where it gives no answer."""
    if not tasks:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        request, out = Path(folder) / "request.json", Path(folder) / "out.json"
        wish = {"benchmarks": {key: list(of) for key, of in tasks.items()}, "base": str(asked.base.resolve())}
        request.write_text(json.dumps({**wish, "out": str(out)}), encoding="utf-8")
        silent = {**_environment(asked), **dict.fromkeys(OFFLINE, "1")}
        answer_of([sys.executable, "-m", LOOKS, str(request)], patience_s=PATIENCE_S, env=silent)
        return read_object(out)


def is_here(metric: str, environment: Mapping[str, str]) -> bool:
    """Whether `evaluate` has loaded it before, and so needs no hub; by the folders that it looks into (0.4.6)."""
    home = environment.get("HF_HOME") or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    folder = Path(environment.get("HF_MODULES_CACHE") or Path(home) / "modules").expanduser() / "evaluate_modules"
    names = [metric.replace("/", "--")] if "/" in metric else [f"evaluate-{kind}--{metric}" for kind in _KINDS]
    return any(len(path.name) == _HASH for name in names for path in (folder / "metrics" / name).glob("*/"))


def _unavailable(environment: Mapping[str, str]) -> str:
    """Why `evaluate` would get nothing; empty where it would. It does not ask for HF_HUB_OFFLINE."""
    is_off = environment.get("HF_EVALUATE_OFFLINE", "").lower() in ON
    return "HF_EVALUATE_OFFLINE is set" if is_off else no_answer(environment)


def _environment(asked: Asked) -> dict[str, str]:
    return {**os.environ, **asked.study.env}


def _unlocked(asked: Asked, tasks: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    known = _known(asked)
    left = {key: [one for one in of if "metrics" not in known.get(one, {})] for key, of in tasks.items()}
    return {key: of for key, of in left.items() if of}


def _locked(asked: Asked, tasks: Mapping[str, Sequence[str]]) -> list[Loaded]:
    return _found(_known(asked), tasks)


def _known(asked: Asked) -> Mapping[str, Any]:
    locking = asked.loaded.locking
    return locking.lock.tasks if locking is not None and locking.lock is not None else {}


def _found(told: Mapping[str, Any], tasks: Mapping[str, Sequence[str]]) -> list[Loaded]:
    if "error" in told:
        return []
    return [
        Loaded(key, task, metric)
        for key, of in tasks.items()
        for task in of
        for metric in told.get(task, {}).get("metrics") or ()
    ]

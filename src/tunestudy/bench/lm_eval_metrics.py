"""Which metrics tasks of lm-evaluation-harness have by way of `evaluate`, which runs a script of the hub for each.

Three ways lead there (0.4.13): a `metric_list` that says `hf_evaluate: true` or names a metric that the harness has
not (`api/registry.get_metric`), a module beside the task that loads one when it is imported, and a function of such a
module that does so when it is called. Without the hub and its cache the first leaves None in the place of the metric,
which shows only when all answers are there; the others raise.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at

LOADS = re.compile(r"""evaluate\.load\(\s*["']([^"']+)["']""")
GENERATES = "generate_until"
"""The only kind of task whose metrics are called by their names; of others the harness has its own ways."""


class _Absent:
    """In the place of a metric while tasks are only looked at."""

    def compute(self, *_: object, **__: object) -> dict[str, float]:
        return {}


@contextmanager
def none_loaded() -> Iterator[None]:
    """Meanwhile `evaluate` brings nothing, so that modules which load metrics can be imported anywhere."""
    import evaluate

    real, evaluate.load = evaluate.load, lambda *_, **__: _Absent()
    try:
        yield
    finally:
        evaluate.load = real


def loaded_by(configs: Iterable[Mapping[str, Any]]) -> set[str]:
    """The metrics that tasks of these configurations load once they run."""
    found: set[str] = set()
    for config in configs:
        listed = config.get("metric_list") or ()
        values = (*config.values(), *(value for one in listed for value in one.values()))
        for function in (one for one in values if isinstance(one, FunctionType)):
            found.update(_at_import(function), _in_code(function, set()))
        if config.get("process_results") is None and config.get("output_type", GENERATES) == GENERATES:
            found.update(str(one["metric"]) for one in listed if _is_of_evaluate(one))
    return found


def require_metrics(benchmark: str, tasks: Mapping[str, Any]) -> None:
    """StudyError for a metric that could not be loaded, before a single question is asked."""
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != GENERATES or getattr(task.config, "process_results", None) is not None:
            continue
        metrics: Mapping[str, Callable[..., Any] | None] = getattr(task, "_metric_fn_list", {})
        if absent := [str(metric) for metric, function in metrics.items() if function is None]:
            message = (
                f"the metric {', '.join(absent)} of {name} is none of lm-evaluation-harness's, and `evaluate` cannot "
                "load it from the hub; run once where the hub answers, with the same HF_HOME, or name another metric"
            )
            raise StudyError(at(f"benchmarks.{benchmark}.tasks"), message, exit_code=Exit.PREFLIGHT_REFUSED)


def _is_of_evaluate(listed: Mapping[str, Any]) -> bool:
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import metric_registry

    name = listed.get("metric")
    return isinstance(name, str) and (listed.get("hf_evaluate") is True or name not in metric_registry)


def _at_import(function: FunctionType) -> Iterator[str]:
    """Metrics that the function's module loads by name when it is imported."""
    try:
        text = Path(function.__code__.co_filename).read_text(encoding="utf-8")
    except OSError:
        return  # made without a file: nothing can be told of it
    for node in ast.parse(text).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from LOADS.findall(ast.get_source_segment(text, node) or "")


def _in_code(function: FunctionType, seen: set[str]) -> Iterator[str]:
    """Metrics that a function, or one of its own module that it calls, loads by name."""
    seen.add(function.__name__)
    try:
        yield from LOADS.findall(inspect.getsource(function))
    except (OSError, TypeError):
        return  # made without a file: nothing can be told of it
    for name in function.__code__.co_names:
        other = function.__globals__.get(name)
        if isinstance(other, FunctionType) and other.__globals__ is function.__globals__ and name not in seen:
            yield from _in_code(other, seen)

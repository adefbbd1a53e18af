"""Tasks of lm-evaluation-harness in process: its prompts, requests and metrics, answered by this model.

Every rank builds the same requests and answers its share of them; rank 0 writes. Greedy generation only.
Source: Gao et al., lm-evaluation-harness, doi:10.5281/zenodo.12608602.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tunestudy.bench.lm_eval_data import at_commits
from tunestudy.bench.lm_eval_metrics import require_metrics
from tunestudy.bench.lm_eval_tasks import load, version
from tunestudy.bench.tasks import Asking, Evaluated, Scored, Totals
from tunestudy.config.benchmark import LmEval
from tunestudy.config.errors import Exit, StudyError, at

VERSION = LmEval.version

FEWSHOT_SEED = 1234
RANDOM_SEED = 0
"""Those of lm-evaluation-harness, so that the same examples stand in front of the same questions."""

BOOTSTRAPS = 1000
"""For standard errors that have no formula, in this process; the report resamples rows by itself."""

MEAN = "mean of tasks"
"""The primary metric of several tasks that are no group."""

OTHER_METRIC = "mend it, ask more questions (limit), or take a metric that has a value; the training is kept"

SHOWN = 2000
"""Characters of a prompt that its line of predictions.jsonl holds, from its end."""


def evaluate(asking: Asking) -> Evaluated:
    """All tasks of the benchmark. StudyError for one that is unknown or cannot be loaded."""
    benchmark = asking.benchmark
    with at_commits(benchmark.revisions or {}, asking.cache / "hub"):
        found = load(asking.name, benchmark.named, asking.base_dir)
    require_metrics(asking.name, found["tasks"])
    for name, task in found["tasks"].items():
        _set_fewshot(asking.name, name, task, benchmark.num_fewshot)
    results = _run(asking, found)
    tasks = list(found["tasks"])
    scored = [
        row
        for name in tasks
        for row in _rows(name, found["tasks"][name], results["samples"][name], prefix=len(tasks) > 1)
    ]
    versions = {name: str(number) for name, number in (results.get("versions") or {}).items()}
    total = totals(results, found["tasks"], list(found["groups"]))
    ways = higher_is_better(results, found["tasks"], list(found["groups"]))
    facts = {"lm_eval": {"version": version(), "tasks": versions, "higher_is_better": ways}}
    return Evaluated(scored, total, facts)


def _set_fewshot(benchmark: str, name: str, task: Any, wanted: int | None) -> None:
    """As its command line does, except that a number which a task rules out is refused, not passed over."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own == 0 and wanted > 0:
        message = f"{name} is defined without examples; leave num_fewshot out"
        raise StudyError(at(f"benchmarks.{benchmark}.num_fewshot"), message)
    if wanted is not None or own is None:
        task.set_config(key="num_fewshot", value=wanted or 0)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _run(asking: Asking, found: Any) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate as evaluate_tasks

    from tunestudy.bench.lm_eval_model import ScoringLM

    random.seed(RANDOM_SEED)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
    model = ScoringLM(asking.scorer, asking.together)
    chat = asking.benchmark.apply_chat_template
    if chat and not getattr(asking.scorer.tokenizer, "chat_template", None):
        message = "the model's tokenizer has no chat template"
        raise StudyError(at(f"benchmarks.{asking.name}.apply_chat_template"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    try:
        results: dict[str, Any] = evaluate_tasks(
            lm=model,
            task_dict=found,
            limit=asking.benchmark.limit,
            bootstrap_iters=BOOTSTRAPS,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    except ValueError as error:
        raise StudyError(at(f"benchmarks.{asking.name}.tasks"), f"lm-evaluation-harness: {error}") from error
    except ArithmeticError as error:
        told = f"a metric cannot be computed over these answers ({type(error).__name__}: {error}); {OTHER_METRIC}"
        raise StudyError(at(f"benchmarks.{asking.name}.tasks"), told, exit_code=Exit.JOBS_FAILED) from error
    return results


def totals(results: Mapping[str, Any], tasks: Mapping[str, Any], groups: Sequence[str]) -> Totals:
    """Every number that the harness gives, its standard errors among them.

    Of one task under the metric's name, of several under `<task>/<metric>`. A filter's name stands in brackets. The
    primary metric is the first that the task, or the group, defines; of several tasks without one, the mean of theirs.
    StudyError where a first one is no finite number: another metric must not stand in for it.
    """
    metrics: dict[str, float] = {}
    firsts: list[float] = []
    told = {**{name: results["results"].get(name, {}) for name in groups}, **{n: results["results"][n] for n in tasks}}
    single = len(told) == 1
    primary = ""
    for name, values in told.items():
        _refuse_without_value(name, values)
        numbers = {_named(key): float(value) for key, value in values.items() if _is_metric(key, value)}
        metrics |= {key if single else f"{name}/{key}": value for key, value in numbers.items()}
        if numbers and not primary and (single or name in groups):
            primary = next(iter(metrics))
        if numbers and name in tasks:
            firsts.append(next(iter(numbers.values())))
    if not primary and firsts:
        primary = MEAN
        metrics = {primary: sum(firsts) / len(firsts), **metrics}
    if not metrics:
        raise StudyError(at("benchmarks.tasks"), "these tasks give no number", exit_code=Exit.JOBS_FAILED)
    return Totals(primary, metrics)


def _refuse_without_value(name: str, values: Mapping[str, Any]) -> None:
    first = next(((key, value) for key, value in values.items() if _is_value(key, value)), None)
    if first is not None and not np.isfinite(first[1]):
        message = f"{_named(first[0])} of {name} is {first[1]} over these answers, no number; {OTHER_METRIC}"
        raise StudyError(at("benchmarks.tasks"), message, exit_code=Exit.JOBS_FAILED)


def higher_is_better(
    results: Mapping[str, Any], tasks: Mapping[str, Any], groups: Sequence[str]
) -> dict[str, bool | None]:
    """By metric, as `totals` names them, for those of which the tasks tell it; None where tasks disagree."""
    names = dict.fromkeys([*groups, *tasks])
    found: dict[str, bool | None] = {}
    firsts: list[bool | None] = []
    for name in names:
        told = (results.get("higher_is_better") or {}).get(name) or {}
        keys = [key for key, value in results["results"].get(name, {}).items() if _is_metric(key, value)]
        ways = {_named(key): told[metric] for key in keys if (metric := key.partition(",")[0]) in told}
        found |= {key if len(names) == 1 else f"{name}/{key}": way for key, way in ways.items()}
        if keys and name in tasks:
            firsts.append(ways.get(_named(keys[0])))
    if len(firsts) > 1:
        found[MEAN] = firsts[0] if len(set(firsts)) == 1 else None
    return found


def _is_metric(key: str, value: Any) -> bool:
    return _is_value(key, value) and bool(np.isfinite(value))


def _is_value(key: str, value: Any) -> bool:
    return "," in key and isinstance(value, int | float) and not isinstance(value, bool)


def _named(key: str) -> str:
    """`exact_match,strict-match` → `exact_match (strict-match)`; `acc,none` → `acc`."""
    metric, _, filtered = key.partition(",")
    return metric if filtered == "none" else f"{metric} ({filtered})"


def _rows(name: str, task: Any, samples: Sequence[Mapping[str, Any]], *, prefix: bool) -> list[Scored]:
    """One line per question, by the first filter; its score is the first metric's value."""
    first = samples[0]["filter"] if samples else ""
    kept = sorted((s for s in samples if s["filter"] == first), key=lambda s: s["doc_id"])
    return [_row(f"{name}/{s['doc_id']:06d}" if prefix else f"{s['doc_id']:06d}", task, s) for s in kept]


def _row(row_id: str, task: Any, sample: Mapping[str, Any]) -> Scored:
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    values = {key: _number(sample[key], weighted=rolling) for key in sample["metrics"]}
    known = {key: value for key, value in values.items() if value is not None}
    name, score = next(iter(known.items()), ("", 0.0))
    problem = "" if np.isfinite(score) else f"{name} of this answer is {score}, no number"
    prediction, reference = str(sample["filtered_resps"][0]), str(sample["target"])
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [str(arguments[1]).strip() for arguments in sample["arguments"]][: len(sample["filtered_resps"])]
        prediction = choices[int(np.argmax([likelihood for likelihood, _ in sample["filtered_resps"]]))]
        right = sample["target"]
        reference = choices[right] if isinstance(right, int) and 0 <= right < len(choices) else reference
    asked = str(sample["arguments"][0][0])[-SHOWN:]
    others = {key: value for key, value in list(known.items())[1:] if np.isfinite(value)}
    told = None if problem else score
    return Scored(row_id, prediction, reference, score == 1.0, score=told, asked=asked, problem=problem, others=others)


def _number(value: Any, *, weighted: bool) -> float | None:
    """A sample's value; of a weighted pair (sum of log-likelihoods, weight), the negative one per weight.

    None for others: a pair may also be a right and a given answer, of which only all together make a value.
    """
    if isinstance(value, int | float | np.number):
        return float(value)
    pair = weighted and isinstance(value, tuple | list) and len(value) == 2
    if pair and all(isinstance(one, int | float) for one in value):
        return -float(value[0]) / float(value[1]) if value[1] else None
    return None

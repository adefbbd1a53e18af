"""Metrics that tasks of lm-evaluation-harness get from the hub are told before a run trains anything."""

from pathlib import Path
from typing import Any

import pytest

from tunestudy.preflight import metrics
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.metrics import metric_points, metric_problems
from tunestudy.preflight.points import Point
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import Lock, write_lock
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

pytest.importorskip("lm_eval")

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
benchmarks: {own: {type: lm_eval, tasks: own.yaml}}
stages: {adapt: {data: digits, learning_rate: 1e-3, max_steps: 2, max_length: 80}}
variants: {one: {stages: [adapt]}}
"""
TASK = """\
task: own
dataset_path: json
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
test_split: test
metric_list: [{metric: METRIC}]
"""


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no caches of whoever runs the tests."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HF_MODULES_CACHE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def asked(folder: Path, *, metric: str = "wer", more: str = "", text: str = STUDY) -> Asked:
    (folder / "study.yaml").write_text(text + more)
    (folder / "own.yaml").write_text(TASK.replace("METRIC", metric))
    loaded = load_study(folder / "study.yaml")
    jobs = [one.job for one in make_plan(loaded, folder / "results").jobs]
    return Asked(loaded, jobs, StudyDir(folder / "results" / "tiny"), starts=True)


def answers(patch: pytest.MonkeyPatch, **told: Any) -> None:
    patch.setattr(metrics, "told_of", lambda _, tasks: told if tasks else {})


def one(points: Any) -> Point:
    [found] = points
    return found


@pytest.mark.slow
def test_the_harness_is_asked_for_a_study_without_a_lock(tmp_path: Path) -> None:
    study = asked(tmp_path)
    told = one(metric_points(study))
    assert (told.state, told.found) == ("warning", "`evaluate` loads wer of own from the hub at run time")


@pytest.mark.parametrize("name", ["evaluate-metric--wer", "evaluate-measurement--wer"])
def test_one_that_evaluate_has_loaded_before_needs_no_hub(tmp_path: Path, name: str, monkeypatch: Any) -> None:
    answers(monkeypatch, **{"own.yaml": {"metrics": ["wer"]}})
    study = asked(tmp_path)
    assert len(list(metric_problems(study))) == 1
    (tmp_path / "hf/modules/evaluate_modules/metrics" / name / ("a" * 64)).mkdir(parents=True)
    assert list(metric_problems(study)) == [] and one(metric_points(study)).state == "ok"
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "elsewhere"))
    assert len(list(metric_problems(study))) == 1


def test_where_the_hub_answers_the_harness_is_not_asked_before_a_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(metrics, "no_answer", lambda _: "")
    monkeypatch.setattr(metrics, "told_of", lambda *_: pytest.fail("a process of some seconds"))
    assert list(metric_problems(asked(tmp_path))) == []
    answers(monkeypatch, **{"own.yaml": {"metrics": ["wer"]}})
    study = asked(tmp_path, more='env: {HF_EVALUATE_OFFLINE: "1"}\n')
    assert "HF_EVALUATE_OFFLINE is set" in str(one(metric_problems(study)))


def test_a_lock_is_believed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(metrics, "told_of", lambda _, tasks: {} if not tasks else pytest.fail("it is locked"))
    known = {"harness": "0", "reads": [], "why": None, "metrics": ["wer"]}
    write_lock(tmp_path / "tiny.lock", Lock("tiny", tasks={"own.yaml": known}))
    study = asked(tmp_path)
    assert "wer of own.yaml" in str(one(metric_problems(study))) and list(metric_points(study)) == []


def test_the_hub_is_not_asked_for_what_is_locked_and_here(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(metrics, "no_answer", lambda _: pytest.fail("seconds, for nothing"))
    known = {"harness": "0", "reads": [], "why": None, "metrics": ["wer"]}
    write_lock(tmp_path / "tiny.lock", Lock("tiny", tasks={"own.yaml": known}))
    (tmp_path / "hf/modules/evaluate_modules/metrics/evaluate-metric--wer" / ("a" * 64)).mkdir(parents=True)
    assert list(metric_problems(asked(tmp_path))) == []


@pytest.mark.parametrize(
    ("told", "state", "found"),
    [
        ({"own.yaml": {"metrics": []}}, "ok", "own: none is loaded from the hub"),
        ({"error": "no such task", "key": "benchmarks.own.tasks"}, "refused", "benchmarks.own.tasks: no such task"),
        ({}, "warning", "the harness gives no answer"),
    ],
)
def test_what_the_harness_tells(tmp_path: Path, told: Any, state: str, found: str, monkeypatch: Any) -> None:
    answers(monkeypatch, **told)
    study = asked(tmp_path)
    point = one(metric_points(study))
    assert point.state == state and found in point.found
    assert list(metric_problems(study)) == []


def test_other_studies_hear_nothing_of_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(metrics, "no_answer", lambda _: pytest.fail("nobody asks the hub"))
    other = asked(tmp_path, more="resources: {executor: slurm, slurm: {python: /opt/python}}\n")
    assert list(metric_points(other)) == [] == list(metric_problems(other))
    study = asked(tmp_path, text=STUDY.replace("benchmarks:", "description: none\n#"))
    assert list(metric_points(study)) == [] == list(metric_problems(study))

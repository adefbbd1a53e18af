"""Which data tasks of the harness read, found without loading them, and read at the commits of a lock."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunestudy.bench.lm_eval_data import at_commits, configs_of, main, told_of
from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.locked import snapshot_folder

pytest.importorskip("lm_eval")

TASK = """\
task: {name}
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
test_split: test
"""
HUB = "dataset_path: org/data\ndataset_name: main\n"


def told(folder: Path, more: str, name: str = "own") -> dict[str, Any]:
    (folder / f"{name}.yaml").write_text(TASK.format(name=name) + more)
    return told_of("b", f"{name}.yaml", folder)


@pytest.mark.parametrize(
    ("more", "reads", "why"),
    [
        (HUB, [("org/data", "main", None)], ""),
        ("dataset_path: org/data\ndataset_kwargs: {revision: v2}\n", [("org/data", None, "v2")], ""),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: own.jsonl}}\n", [], ""),
        ("dataset_path: json\ndataset_kwargs: {data_files: {test: 'https://x/y.jsonl'}}\n", None, "files by URL"),
        ("dataset_path: org/data\ndataset_kwargs: {data_files: a.json}\n", None, "single files of org/data"),
        ("custom_dataset: !function code.rows\n", None, "code of its own"),
    ],
)
def test_what_a_task_of_ones_own_reads(tmp_path: Path, more: str, reads: Any, why: str) -> None:
    (tmp_path / "code.py").write_text("def rows(**_):\n    raise AssertionError('nothing is loaded')\n")
    found = told(tmp_path, more)
    assert found["reads"] == reads and why in (found["why"] or "")


OWN = "dataset_path: json\nmetric_list: [{metric: METRIC}]\n"
CODE = """\
import evaluate

try:
    first = evaluate.load("at_import")
except ImportError:
    raise

def deeper(items):
    return evaluate.load("in_code").compute(items)

def called(doc, results):
    return {"deep": deeper(results)}

def unused(doc, results):
    return evaluate.load("unused")
"""


@pytest.mark.parametrize(
    ("more", "metrics"),
    [
        (OWN.replace("METRIC", "exact_match"), []),
        (OWN.replace("METRIC", "wer"), ["wer"]),
        (OWN.replace("METRIC", "exact_match, hf_evaluate: true"), ["exact_match"]),
        (OWN.replace("METRIC", "f1, hf_evaluate: true") + "output_type: multiple_choice\n", []),
        (OWN.replace("METRIC", "deep") + "process_results: !function code.called\n", ["at_import", "in_code"]),
    ],
)
def test_metrics_that_evaluate_loads_are_found_without_loading_them(tmp_path: Path, more: str, metrics: Any) -> None:
    (tmp_path / "code.py").write_text(CODE)
    for name in ("own", "again"):  # the harness imports a module once
        assert told(tmp_path, more, name)["metrics"] == metrics


def test_a_file_that_is_no_yaml_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"^benchmarks\.b\.tasks: `own\.yaml` cannot be loaded: ParserError: .*line"
    ) as error:
        told(tmp_path, "metric_list: [")
    assert "\n" not in str(error.value)


def test_a_module_that_cannot_do_without_a_metric_is_told_in_a_line(tmp_path: Path) -> None:
    """So do several of the harness's own: they raise RuntimeError of whatever went wrong."""
    (tmp_path / "broken.py").write_text("raise RuntimeError('Error loading evaluation metrics')\n")
    with pytest.raises(
        StudyError, match=r"`own.yaml` cannot be loaded: RuntimeError: Error loading evaluation metrics"
    ):
        told(tmp_path, HUB + "process_results: !function broken.f\n")


def test_a_metric_that_cannot_be_had_is_told_before_any_question(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    from tunestudy.bench.lm_eval_metrics import require_metrics

    def gone(name: str) -> None:
        raise FileNotFoundError(name)

    monkeypatch.setattr(evaluate, "load", gone)
    from lm_eval.api.registry import get_metric

    listed = {name: get_metric(name) for name in ("exact_match", "wer")}
    task = SimpleNamespace(OUTPUT_TYPE="generate_until", config=SimpleNamespace(), _metric_fn_list=listed)
    with pytest.raises(
        StudyError, match="the metric wer of own is none of lm-evaluation-harness's, and `evaluate` cannot"
    ):
        require_metrics("b", {"own": task})
    task.OUTPUT_TYPE = "multiple_choice"
    require_metrics("b", {"own": task})


def test_all_tasks_of_a_folder_and_its_group(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    told(tasks, HUB, "one")
    told(tasks, HUB.replace("main", "other"), "two")
    (tasks / "all.yaml").write_text("group: all\ntask: [one, two]\n")
    assert [one["dataset_name"] for one in configs_of("b", "tasks", tmp_path)] == ["main", "other"]


def test_a_shipped_task_and_one_that_is_not(tmp_path: Path) -> None:
    request = {"benchmarks": {"arc": ["arc_easy"]}, "base": str(tmp_path), "out": str(tmp_path / "out.json")}
    write_json(tmp_path / "request.json", request)
    assert main(str(tmp_path / "request.json")) == Exit.DONE
    assert read_json(tmp_path / "out.json")["arc_easy"]["reads"] == [["allenai/ai2_arc", "ARC-Easy", None]]


def test_data_come_at_the_locked_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []
    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda path, name, **options: asked.append((path, name, options)))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    snapshot = snapshot_folder(tmp_path, "dataset", "org/data", "c0ffee")
    snapshot.mkdir(parents=True)
    with at_commits({"org/data": "c0ffee"}, tmp_path / "views"):
        datasets.load_dataset(path="org/data", name="main", revision="v2")
        datasets.load_dataset("org/other", "main")
        monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
        datasets.load_dataset("org/data", "main", split="test")
    assert asked == [
        (str(snapshot), "main", {"revision": None}),
        ("org/other", "main", {}),
        ("org/data", "main", {"split": "test", "revision": "c0ffee"}),
    ]
    assert datasets.load_dataset is not real, "the one before stands again"

"""Which data tasks of the harness read, found without loading them, and read at the commits of a lock."""

from pathlib import Path
from typing import Any

import pytest

from tunestudy.bench.lm_eval_data import at_commits, configs_of, main, told_of
from tunestudy.config.errors import Exit
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

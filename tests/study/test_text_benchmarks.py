"""Benchmarks without a data set, their files, judges: what a plan makes of them, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest

from tunestudy.study.plan import Plan

Folder = Any
Edit = Callable[..., str]
JUDGED = "{type: textvqa, dataset: rotated, judge: {url: 'http://h/v1', "
ACCURACY = "accuracy: {type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}"
TASK = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntask: own\n"


def with_benchmark(edited: Edit, benchmark: str) -> str:
    return edited((ACCURACY, f"{ACCURACY}\n  other: {benchmark}"))


def scores(plan: Plan) -> tuple[set[str], set[str]]:
    """Fingerprints of all jobs, and of `other`'s scores."""
    jobs = [planned.job for planned in plan.jobs]
    return {job.fingerprint for job in jobs}, {
        job.evaluations["other"].fingerprint for job in jobs if "other" in job.evaluations
    }


def test_the_files_of_an_own_task_are_part_of_its_score_and_of_nothing_else(folder: Folder, edited: Edit) -> None:
    text = with_benchmark(edited, "{type: lm_eval, tasks: [arc_easy, tasks/own.yaml]}")
    (folder.root / "tasks").mkdir()
    (folder.root / "tasks" / "own.yaml").write_text(TASK)
    (folder.root / "tasks" / "rows.jsonl").write_text('{"a": 1}\n')
    jobs, before = scores(folder.plan(text))
    assert before
    (folder.root / "tasks" / "unnamed.txt").write_text("not read")
    assert scores(folder.plan(text)) == (jobs, before)
    (folder.root / "tasks" / "rows.jsonl").write_text('{"a": 2}\n')
    jobs_after, after = scores(folder.plan(text))
    assert jobs_after == jobs and before.isdisjoint(after)


@pytest.mark.parametrize(
    ("benchmark", "told"),
    [
        ("{type: lm_eval, tasks: tasks/none.yaml}", "there is no `tasks/none.yaml`"),
        ("{type: lm_eval}", "tasks"),
        ("{type: lm_eval, tasks: arc_easy, dataset: rotated}", "dataset"),
        ("{type: perplexity, dataset: rotated, window: 8, stride: 8}", "stride (8) must be below window (8)"),
        ("{type: textvqa, dataset: rotated, judge: {url: here, model: m}}", "no URL such as"),
        (JUDGED + "modl: m}}", "did you mean `model`?"),
        (
            "{type: textvqa, dataset: rotated, judge: {url: 'http://h/v1', model: m, api_key_env: sk-1}}",
            "never the key",
        ),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(folder: Folder, edited: Edit, benchmark: str, told: str) -> None:
    assert told in folder.error(with_benchmark(edited, benchmark))

"""A report of a study whose file was edited after it ran."""

from pathlib import Path

import pytest

from tunestudy.launch.prepare import prepare
from tunestudy.records.layout import StudyDir
from tunestudy.report.stale import stale_lines
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

STUDY = """\
study: s
seeds: [1, 2]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg="}}
datasets: {d: {type: digits, held_out: 0.2}}
benchmarks: {b: {type: exact_match, dataset: d@held_out, max_new_tokens: 1}}
defaults: {data: d, effective_batch_size: 4, learning_rate: 1e-3, max_steps: 10}
stages: {base: {}}
variants: {v: {stages: [base]}}
"""


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The folder of a study file whose plan is on disk."""
    loaded = edited(tmp_path, "", "")
    plan = make_plan(loaded, tmp_path)
    jobs = [planned.job for planned in plan.jobs]
    prepare(loaded.study, STUDY.encode(), jobs, plan.as_json(), StudyDir(tmp_path / "s"))
    return tmp_path


def edited(folder: Path, old: str, new: str) -> LoadedStudy:
    path = folder / "s.yaml"
    path.write_text(STUDY.replace(old, new) if old else STUDY)
    return load_study(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1e-3", "2e-3", ["  base (v): 2 jobs trained again: learning_rate 0.001 → 0.002"]),
        ("max_new_tokens: 1", "max_new_tokens: 2", ["  base (v): 2 jobs scored again"]),
        ("[1, 2]", "[1]", ["  1 job of what ran is not in it any more"]),
        ("[1, 2]", "[1, 2, 3]", ["  base (v): 1 job new"]),
    ],
)
def test_what_the_file_says_otherwise_is_told(ran: Path, old: str, new: str, words: list[str]) -> None:
    loaded = edited(ran, old, new)
    head, *lines = stale_lines(loaded, ran)
    assert head.startswith("The study file has changed since this ran, and the table is of what ran. ")
    assert head.endswith(f"`tunestudy run {loaded.typed}` would bring it up to date:")
    assert len(lines) == len(words) and all(map(str.startswith, lines, words))


def test_nothing_is_told_where_nothing_that_counts_changed(ran: Path) -> None:
    assert stale_lines(edited(ran, "", ""), ran) == []
    assert stale_lines(edited(ran, "max_steps: 10", "max_steps: 10, logging_steps: 3"), ran) == []


def test_a_plan_that_cannot_be_compared_hinders_no_report(ran: Path) -> None:
    (ran / "s" / "plan.json").write_text("{half")
    (line,) = stale_lines(edited(ran, "", ""), ran)
    assert line.startswith("whether the study file has changed since this ran cannot be told here: ")
    assert "s/plan.json: is damaged" in line

"""Reading run directories that are whole, half-written, broken or empty."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect


def test_a_finished_study(finished: StudyDir) -> None:
    facts = collect(finished)
    assert (facts.name, facts.baseline, facts.seeds) == ("digits-rotation", "untrained", (1, 2, 3))
    assert list(facts.variants) == ["untrained", "full", "lora_r4", "lora_r16"]
    assert facts.state == "finished" and facts.count("done") == 12 and facts.unreadable == []
    assert [job.stage for job in facts.trial("full", 2)] == ["base", "adapt"]
    assert facts.last_job("untrained", 1) is facts.trial("full", 1)[0]


def test_statuses_of_a_study_half_way(half: StudyDir) -> None:
    facts = collect(half)
    by_trial = {(job.variants[-1], job.seed): job.status for job in facts.jobs if job.stage == "adapt"}
    assert by_trial["full", 2] == "failed"
    assert by_trial["lora_r16", 2] == "pending"
    assert by_trial["lora_r4", 3] == "running"
    assert by_trial["lora_r4", 1] == "evaluate"
    assert by_trial["full", 1] == "done"
    assert facts.state == "running"


def test_the_same_judgement_as_the_plans(half: StudyDir) -> None:
    """`study.state` decides what is to run; the report must not tell another story."""
    from tunestudy.config.job import Job
    from tunestudy.study.state import job_status

    for job in collect(half).jobs:
        folder = half.job(job.id)
        if folder.root.exists():
            planned = Job.model_validate_json(folder.job_json.read_text())
            assert job.status == job_status(folder, planned), job.id


def test_a_result_of_an_older_definition_does_not_count(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    for path in study_dir.jobs.glob("adapt-*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0" * 64}))
    assert collect(study_dir).count("done") == 1


def test_an_empty_folder(tmp_path: Path) -> None:
    facts = collect(StudyDir(tmp_path))
    assert facts.jobs == [] and facts.variants == {} and facts.state == "not started"


def test_without_plan_and_study_the_jobs_still_tell(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    study_dir.plan_json.unlink()
    study_dir.resolved_yaml.unlink()
    facts = collect(study_dir)
    assert set(facts.variants) == {"untrained", "full", "lora_r4", "lora_r16"}
    assert facts.seeds == (1, 2, 3) and facts.count("done") == 12


def test_every_file_may_be_missing(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,), accuracy={"untrained": 0.1}))
    files = sorted(path.relative_to(study_dir.root) for path in study_dir.root.rglob("*") if path.is_file())
    assert len(files) > 12
    for name in files:
        copy = tmp_path / "copy"
        shutil.copytree(study_dir.root, copy)
        (copy / name).unlink()
        assert collect(StudyDir(copy)).unreadable == [], name
        shutil.rmtree(copy)


@pytest.fixture
def csv_as_in_the_report() -> Iterator[None]:
    """The longest field that Python's csv takes is the process's; readers of data raise it, in workers."""
    before = csv.field_size_limit(128 * 1024)
    yield
    csv.field_size_limit(before)


@pytest.mark.usefixtures("csv_as_in_the_report")
def test_broken_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    broken = next(study_dir.jobs.glob("adapt-*/result.json"))
    broken.write_text("{torn")
    study_dir.plan_json.write_text("[]")
    (broken.parent / "loss_log.csv").write_bytes(b"\xff\xfe\x00")
    (broken.parent / "eval_log.csv").write_bytes(b"step,eval_loss\n" + bytes(200_000) + b"\n")  # a disk lost power
    facts = collect(study_dir)
    assert len(facts.unreadable) == 3
    assert any("result.json" in line for line in facts.unreadable)
    assert facts.count("done") == 11


def test_wrong_types_count_as_not_recorded(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    path = next(study_dir.jobs.glob("base-*/result.json"))
    odd = {"tokens": "many", "train_s": None, "best": [1], "roles": None, "steps": 2.5, "duration_s": float("nan")}
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    training = next(job.training for job in collect(study_dir).jobs if job.stage == "base")
    assert training is not None
    assert (training.tokens, training.best, training.steps, training.duration_s) == (None, None, None, None)
    assert training.tokens_per_s is None


def test_orphans_are_named_but_not_counted(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    shutil.copytree(next(study_dir.jobs.iterdir()), study_dir.jobs / "adapt-000000000000")
    facts = collect(study_dir)
    assert facts.orphans == ["adapt-000000000000"] and len(facts.jobs) == 12


def test_no_other_metric_stands_in_for_one_that_is_no_number(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        score = json.loads(path.read_text())
        seed = json.loads((path.parent.parent / "job.json").read_text())["seed"]
        accuracy = score["metrics"]["accuracy"] if seed != 1 else float("nan")
        path.write_text(json.dumps({**score, "metrics": {"accuracy": accuracy, "f1": 0.5}}))
    facts = collect(study_dir)
    assert {(job.seed, score.primary) for job in facts.jobs for score in job.scores.values()} == {
        (2, "accuracy"),
        (3, "accuracy"),
    }
    assert any("digits.json: its accuracy is not a finite number" in told for told in facts.unreadable)

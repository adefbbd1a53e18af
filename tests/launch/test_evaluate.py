"""`tunestudy eval`: words sorted, what is missing scored and nothing trained, a model by itself as a study."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch import evaluate
from tunestudy.launch.evaluate import evaluate_study
from tunestudy.launch.table import COLUMNS
from tunestudy.records.atomic import write_json
from tunestudy.records.launchers import present
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.lease import Lease
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

FAKE = Path(__file__).with_name("fake_scorer.py")
STUDY = """\
study: s
seeds: [1, 2]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}}
datasets: {digits: {type: digits, held_out: 0.1}}
benchmarks:
  a: {type: exact_match, dataset: digits@held_out}
  b: {type: exact_match, dataset: digits@held_out, limit: 3}
defaults: {learning_rate: 1.0e-3, max_steps: 2, effective_batch_size: 2}
stages: {base: {data: digits}, adapt: {data: digits}}
variants: {A0: {stages: []}, short: {stages: [base]}, long: {stages: [base, adapt]}}
resources: {slots: 2, max_retries: 0}
"""


def fake(folder: JobDir, _ranks: int) -> list[str]:
    return [sys.executable, str(FAKE), str(folder.root)]


@pytest.fixture
def loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> LoadedStudy:
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


def train(loaded: LoadedStudy, results: Path, *stages: str) -> None:
    """As if the jobs of these stages had run."""
    for planned in make_plan(loaded, results).jobs:
        if planned.job.stage in stages:
            place = StudyDir(results / "s").job(planned.job.id)
            write_json(place.result_json, {"fingerprint": planned.job.fingerprint, "status": "done"})


def started(results: Path, study: str = "s") -> dict[str, list[str]]:
    """Stage → the benchmarks that each start of its jobs was given."""
    found: dict[str, list[str]] = {}
    for path in sorted((results / study / "jobs").glob("*/starts.txt")):
        found.setdefault(path.parent.name.rpartition("-")[0], []).extend(path.read_text().splitlines())
    return found


def scored(results: Path) -> set[tuple[str, str]]:
    found = (results / "s/jobs").glob("*/eval/*.json")
    return {(path.parents[1].name.rpartition("-")[0], path.stem) for path in found}


def test_scores_what_is_there_and_trains_nothing(
    loaded: LoadedStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    train(loaded, results, "base")
    assert evaluate_study(loaded, results, command=fake, output=tmp_path / "out/t.csv") == Exit.DONE
    printed = capsys.readouterr().out
    assert "left out: adapt (long), 2 jobs: is not trained yet" in printed
    assert "`tunestudy run` trains what is missing" in printed
    assert started(results) == {"base_model": ["['a', 'b']"] * 2, "base": ["['a', 'b']"] * 2}
    rows = list(csv.DictReader((tmp_path / "out/t.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert {(row["variant"], row["benchmark"], row["mean"]) for row in rows} == {
        (variant, name, mean) for variant, mean in (("A0", "0.5"), ("short", "0.5"), ("long", "")) for name in "ab"
    }
    before = started(results)
    assert evaluate_study(loaded, results, command=fake) == Exit.DONE
    assert started(results) == before, "nothing is scored twice"


def test_a_merged_model_needs_nothing_of_what_it_was_made_of(tmp_path: Path) -> None:
    merged = "merged: {type: merge, method: linear, models: {en: base, ko: adapt}}"
    text = STUDY.replace("adapt: {data: digits}}", f"adapt: {{data: digits, after: base}}, {merged}}}")
    text = text.replace("long: {stages: [base, adapt]}", "long: {stages: [base, adapt, merged]}")
    (tmp_path / "study.yaml").write_text(text)
    loaded = load_study(tmp_path / "study.yaml")
    train(loaded, tmp_path / "results", "merged")
    assert evaluate_study(loaded, tmp_path / "results", command=fake) == Exit.DONE
    assert started(tmp_path / "results")["merged"] == ["['a', 'b']"] * 2


def test_scoring_what_is_trained_is_no_second_attempt_at_it(
    loaded: LoadedStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(loaded, tmp_path, "base")
    for place in (StudyDir(tmp_path / "s").job(p.job.id) for p in make_plan(loaded, tmp_path).jobs):
        Lease.acquire(place.claim).release()  # as training left it
    assert evaluate_study(loaded, tmp_path, command=fake) == Exit.DONE
    lines = [line for line in capsys.readouterr().out.splitlines() if "started on" in line]
    told = sorted(line.partition("  ")[2].rpartition(" on ")[0].partition("-")[0::2] for line in lines)
    of_base = [after for stage, after in told if stage == "base"]
    assert len(of_base) == 2 and all(after.endswith("scoring started") for after in of_base), lines
    assert all("attempt" not in line for line in lines if "base-" in line), lines


def test_only_the_untouched_model_when_nothing_is_trained(loaded: LoadedStudy, tmp_path: Path) -> None:
    assert evaluate_study(loaded, tmp_path, command=fake) == Exit.DONE
    assert {stage for stage, _ in scored(tmp_path)} == {"base_model"}


def test_some_benchmarks_and_then_the_others(loaded: LoadedStudy, tmp_path: Path) -> None:
    train(loaded, tmp_path, "base", "adapt")
    assert evaluate_study(loaded, tmp_path, benchmarks=["b"], only=["long"], command=fake) == Exit.DONE
    assert scored(tmp_path) == {("base", "b"), ("adapt", "b")}
    jobs = [json.loads(path.read_text()) for path in (tmp_path / "s/jobs").glob("*/job.json")]
    assert all(set(job["evaluations"]) == {"a", "b"} for job in jobs), "job.json is whole again"
    assert all(job["parents"] for job in jobs if job["stage"] == "adapt")
    assert evaluate_study(loaded, tmp_path, seeds=[1], command=fake) == Exit.DONE
    assert sorted(started(tmp_path)["adapt"]) == ["['a', 'b']", "['b']", "['b']"]
    assert {planned.status for planned in make_plan(loaded, tmp_path).jobs if planned.job.seed == 1} == {"done"}


def test_a_job_that_fails_is_told_by_the_exit_code(loaded: LoadedStudy, tmp_path: Path) -> None:
    code = evaluate_study(loaded, tmp_path, command=lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    assert code == Exit.JOBS_FAILED


def test_some_benchmarks_wait_for_a_run_that_wants_all(loaded: LoadedStudy, tmp_path: Path) -> None:
    with present(StudyDir(tmp_path / "s")), pytest.raises(StudyError, match="which wants all benchmarks") as caught:
        evaluate_study(loaded, tmp_path, benchmarks=["a"], command=fake)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_a_benchmark_that_the_study_lacks(loaded: LoadedStudy, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"the study has no benchmark `c`; known are: a, b") as caught:
        evaluate_study(loaded, tmp_path, benchmarks=["c"], command=fake)
    assert caught.value.exit_code == Exit.STUDY_WRONG
    assert not (tmp_path / "s").exists()


def test_a_study_on_slurm_is_scored_by_slurm(
    loaded: LoadedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the login node where the command was typed. What a submission finds in its job's folder is what was asked
    for, also after the watching was ended."""
    train(loaded, tmp_path, "base")
    resources = loaded.study.resources.model_copy(update={"executor": "slurm"})
    on_slurm = replace(loaded, study=loaded.study.model_copy(update={"resources": resources}))
    ends, seen = iter([Exit.INTERRUPTED, Exit.DONE]), []
    base = next(one.job for one in make_plan(loaded, tmp_path).jobs if one.job.stage == "base" and one.job.seed == 1)

    def asked() -> list[str]:
        return list(json.loads(StudyDir(tmp_path / "s").job(base.id).job_json.read_text())["evaluations"])

    def submitted(_loaded: Any, _results: Path, jobs: Any, **_: Any) -> Exit:
        seen.append(([job.stage for job in jobs], asked()))
        return next(ends)

    monkeypatch.setattr(evaluate, "run_by_slurm", submitted)
    monkeypatch.setattr(evaluate, "check", lambda *_: None)
    monkeypatch.setattr(evaluate, "build_report", lambda *_, **__: Exit.DONE)
    for code in (Exit.INTERRUPTED, Exit.DONE):
        assert evaluate_study(on_slurm, tmp_path, benchmarks=["b"], only=["short"], seeds=[1]) == code
        assert asked() == (["b"] if code == Exit.INTERRUPTED else ["a", "b"])
    assert seen == [(["base"], ["b"])] * 2

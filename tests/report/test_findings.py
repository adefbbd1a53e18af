"""Warnings, failures, over-fitting, conditions: found when there, silent when not."""

import json
from pathlib import Path

import pytest
from studies import Recipe, make_study

from tunestudy.config.errors import StudyError
from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.cost import costs, total
from tunestudy.report.differences import differences
from tunestudy.report.findings import broken_requirements, problems, warnings_of
from tunestudy.report.overfit import find_fits
from tunestudy.report.sources import realised, source_losses


def found(study_dir: StudyDir) -> str:
    facts = collect(study_dir)
    return "\n".join(warnings_of(facts, make_headline(facts)))


def test_a_clean_study_has_no_warning(tmp_path: Path) -> None:
    assert found(make_study(tmp_path)) == ""


def test_overlap_between_evaluation_and_training(tmp_path: Path) -> None:
    text = found(make_study(tmp_path, Recipe(overlap=4)))
    assert "4 evaluation rows" in text and "digit-0, digit-1, digit-2" in text


def test_unequal_tokens_unless_declared(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(token_factor={"lora_r4": 0.5}))
    assert "not on equal footing: stage adapt differs in tokens" in found(study_dir)
    resolved = json.loads(study_dir.resolved_yaml.read_text())
    resolved["variants"]["lora_r4"]["intends"] = ["tokens"]
    study_dir.resolved_yaml.write_text(json.dumps(resolved))
    assert "equal footing" not in found(study_dir)


def test_other_benchmark_rows(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    path = next(study_dir.jobs.glob("base-*/eval/digits.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows_sha256": "f" * 64}))
    assert "was not scored on the same rows everywhere" in found(study_dir)


def test_other_code_other_records_and_another_version_of_a_benchmark(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    job = next(path for path in study_dir.jobs.glob("adapt-*"))
    for name, key, value in (("env.json", "git", {"commit": "b" * 40}), ("eval/digits.json", "version", 2)):
        told = json.loads((job / name).read_text())
        (job / name).write_text(json.dumps({**told, key: value}))
    data = json.loads((job / "data.json").read_text())
    data["sources"]["rotated"]["read"] = 1700
    (job / "data.json").write_text(json.dumps(data))
    text = found(study_dir)
    assert "different commits of the code: a1cd4be00000 with uncommitted changes, bbbbbbbbbbbb" in text
    assert "benchmark digits was scored in different versions: 1, 2" in text
    assert "data set rotated did not have the same records in all jobs of stage adapt: 1,700, 1,797" in text


def test_results_that_are_still_coming_are_no_warning(half: StudyDir) -> None:
    assert "lora_r4 has no result" not in found(half)


def test_missing_seeds_and_unfinished_jobs(half: StudyDir) -> None:
    text = found(half)
    assert "full has no result at seed 2" in text
    assert "5 jobs of 12 not done" in text


def test_over_fitting_is_flagged_where_the_loss_rises_again(finished: StudyDir) -> None:
    fits = {fit.variant: fit for fit in find_fits(collect(finished))}
    assert fits["full"].flagged == 3 and fits["lora_r4"].flagged == 0
    trial = fits["full"].trials[0]
    assert trial.best_step < trial.last_step and trial.rise > 0.02
    assert "full over-fits in stage adapt at 3 of 3 seeds" in found(finished)


HALVED = "(per_device_train_batch_size is 4 in place of 8)"


def test_failures_and_what_came_of_them(finished: StudyDir, half: StudyDir) -> None:
    assert [issue.outcome for issue in problems(collect(finished))] == [f"solved: done at attempt 2 {HALVED}"]
    assert [issue.outcome for issue in problems(collect(half))] == [f"tried again {HALVED}", "open"]


def test_a_failure_that_no_launcher_wrote_down_is_told_too(half: StudyDir, tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(failed=(("full", 1),)))
    for path in study_dir.events.iterdir():
        path.unlink()
    assert [issue.kind for issue in problems(collect(study_dir))] == ["oom"]


@pytest.mark.parametrize(
    ("require", "broken"),
    [
        ({"full.digits": ">= 0.9", "*.digits": "<= 0.99"}, []),
        ({"untrained.digits": "<= 0.15", "*.digits": ">= 0.7"}, []),
        ({"*.digits": ">= 0.7"}, ["untrained.digits"]),
        ({"full.digits": "> 0.99", "lora_r4.digits": "< 0.5"}, ["full.digits", "lora_r4.digits"]),
    ],
)
def test_conditions_on_means(tmp_path: Path, require: dict[str, str], broken: list[str]) -> None:
    facts = collect(make_study(tmp_path, Recipe(report={"require": require})))
    lines = broken_requirements(facts, make_headline(facts))
    assert [line.split()[0] for line in lines] == broken


def test_a_condition_without_a_result_is_not_met(tmp_path: Path) -> None:
    recipe = Recipe(seeds=(1,), pending=(("full", 1),), report={"require": {"full.digits": ">= 0.7"}})
    facts = collect(make_study(tmp_path, recipe))
    assert broken_requirements(facts, make_headline(facts)) == ["full.digits should be >= 0.7, but there is no result"]


@pytest.mark.parametrize(
    "require",
    [{"ful.digits": ">= 0.7"}, {"*.digit": ">= 0.7"}, {"full.digits": "about 0.7"}, {"full.digits": ">= 0.7.1"}],
)
def test_a_condition_that_says_nothing_is_the_users_mistake(tmp_path: Path, require: dict[str, str]) -> None:
    facts = collect(make_study(tmp_path, Recipe(report={"require": require})))
    with pytest.raises(StudyError, match=r"report\.require"):
        broken_requirements(facts, make_headline(facts))


def test_shared_stages_count_once_in_the_total(finished: StudyDir) -> None:
    facts = collect(finished)
    jobs = {job.id: job.training.duration_s for job in facts.jobs if job.training}
    base = sum(seconds for name, seconds in jobs.items() if name.startswith("base"))
    sums, by_variant = total(facts), {cost.variant: cost for cost in costs(facts)}
    assert sums.job_s == pytest.approx(sum(jobs.values()))
    assert sums.shared_s == pytest.approx(base) and sums.saved_s == pytest.approx(3 * base)
    full = by_variant["full"]
    assert full.duration_s == pytest.approx(full.own_s + base / 3) and by_variant["untrained"].own_s == 0
    assert by_variant["lora_r4"].trainable_params < by_variant["full"].trainable_params
    assert full.steps == 500
    assert (full.eval_s, full.save_s) == pytest.approx((0.12 * full.duration_s, 0.03 * full.duration_s))


def test_a_half_finished_trial_has_no_cost_yet(half: StudyDir) -> None:
    assert {cost.variant: cost.seeds for cost in costs(collect(half))}["full"] == 2


def test_sources_are_told_once_per_stage_with_their_losses(finished: StudyDir) -> None:
    facts = collect(finished)
    rows = realised(facts)
    assert [(row.stage, row.source, row.samples) for row in rows] == [
        ("base", "rotated", 1434),
        ("adapt", "rotated", 1434),
    ]
    assert rows[0].rejected == (("longer than max_length", 3),)
    assert rows[0].lost == (("not fetched: http 404", 5),)
    last = [facts.last_job("full", seed).eval_log["eval_loss"][-1] for seed in facts.seeds]
    losses = {row.variant: row.losses for row in source_losses(facts)}["full"]
    assert losses["upright"] == pytest.approx(sum(last) / 3 + 0.1)
    assert losses["rotated"] == pytest.approx(sum(last) / 3 - 0.1)


def test_differences_are_those_of_the_study(finished: StudyDir) -> None:
    rows = {(row.stage, row.key): row for row in differences(collect(finished))}
    assert ("base", "learning_rate") not in rows
    rate = rows["adapt", "learning_rate"]
    assert (rate.baseline, rate.values) == ("—", {"full": "0.003", "lora_r4": "0.01", "lora_r16": "0.01"})
    assert rows["adapt", "adapter.lora_r"].values == {"full": "—", "lora_r4": "16", "lora_r16": "32"}
    assert rate.tells_apart and not rows["adapt", "max_steps"].tells_apart
    assert ("adapt", "optim") not in rows and ("adapt", "adapter.use_rslora") not in rows

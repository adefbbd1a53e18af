"""Contradictions in what a study states of its cost, and the setting that would mend it."""

import shutil
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.launch.estimates.doubts import doubts, hours, rarer
from tunestudy.study.estimates.costs import StageCost, stage_costs
from tunestudy.study.estimates.spans import Span
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

WORLD = Path(__file__).parents[3] / "studies" / "theworld_datacomp.yaml"
SMALL = """\
study: s
seeds: [1]
model: {{architecture: qwen3, tokenizer: {{type: characters, alphabet: "0123456789abcdefg="}}}}
datasets: {{d: {{type: digits, held_out: 0.2}}}}
defaults: {{data: d, effective_batch_size: 4, learning_rate: 1e-3, max_steps: 1000}}
stages: {{base: {{save_steps: 100, full_save_steps: null, save_on_epoch_end: false, eval_steps: 100}}}}
variants: {{v: {{stages: [base]}}}}
estimate: {estimate}
"""


def costs_of(path: Path) -> list[StageCost]:
    return stage_costs(make_plan(load_study(path), path.parent / "results"), host="h", device="cuda")


def of_text(folder: Path, estimate: str) -> list[str]:
    path = folder / "s.yaml"
    path.write_text(SMALL.format(estimate=estimate))
    return doubts(costs_of(path), None)


def test_the_plan_of_the_world_study_contradicts_itself(tmp_path: Path) -> None:
    shutil.copy(WORLD, tmp_path)
    costs = costs_of(tmp_path / WORLD.name)
    told = [line for line in doubts(costs, None) if line.startswith("align (plan_100k): ")]
    assert [line.removeprefix("align (plan_100k): ") for line in told] == [
        "18,750 steps × 3 s = 15.6 h; stated 48–60 h",
        "375 uploads come to 57.4 GB; stated 1–2 GB",
        "checkpoints and result come to 1.1 (0.92–1.4) GB; stated 50 GB",
        "375 saves × 7.5 min = 46.9 h, 3.0 times the training; save_steps: 5000 would cost 2.4 %",
    ]
    plan = next(cost for cost in costs if cost.variants == ("plan_100k",))
    assert plan.seconds is not None
    assert hours(plan.seconds) == "47–78.5 h"


def test_what_adds_up_is_left_alone(tmp_path: Path) -> None:
    stated = "{step_s: 2, save_s: 3, evaluation_s: 1s, claims: {base: {training: 33 min, total: 30m - 40m}}}"
    assert of_text(tmp_path, stated) == []


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("{step_s: 1, save_s: 10}", "10 saves × 10 s = 100 s, 10 % of the training; save_steps: 200 would cost 5.0 %"),
        ("{step_s: 1, evaluation_s: 1 min}", "11 evaluations × 60 s = 11 min, 66 % of the training; no eval_steps"),
        ("{step_s: 1, save_s: 1, upload_s: 5m}", "10 uploads × 5 min = 50 min, longer than the job itself"),
        ("{step_s: 1, claims: {v.base: {training: 1h}}}", "1,000 steps × 1 s = 16.7 min; stated 60 min"),
    ],
)
def test_each_doubt_says_what_and_how_to_mend_it(tmp_path: Path, stated: str, expected: str) -> None:
    told = of_text(tmp_path, stated)
    assert len(told) == 1
    assert told[0].startswith("base (v): " + expected)


def test_a_claim_of_every_variant_that_shares_a_job_is_held_against_it(tmp_path: Path) -> None:
    claims = "{base: {training: 9h}, w.base: {total: 5h}, v.base: {training: 16 min}}"
    path = tmp_path / "s.yaml"
    text = SMALL.format(estimate=f"{{step_s: 1, save_s: 1, evaluation_s: 1, claims: {claims}}}")
    path.write_text(text.replace("{v: {stages: [base]}}", "{v: {stages: [base]}, w: {stages: [base]}}"))
    told = doubts(costs_of(path), None)
    assert "base (v +1): 1,000 steps × 1 s = 16.7 min; stated 9 h" in told, "of w, as all of the stage"
    assert any("the whole job comes to" in line and "stated 5 h" in line for line in told)
    assert len(told) == 2


def test_cadences_that_are_proposed_are_round_and_cheap_enough() -> None:
    for one_s, step_s in ((450.0, 3.0), (10.0, 1.0), (0.01, 1.0), (7.0, 0.013)):
        cadence = rarer(one_s, step_s)
        assert one_s <= 0.05 * cadence * step_s + 1e-9
        assert str(cadence).rstrip("0") in ("1", "2", "5")


def test_ranges_are_told_shortly() -> None:
    assert hours(Span.exactly(56250)) == "15.6 h"
    assert hours(Span(3600, 5000, 10000)) == "1.4 (1–2.8) h"


def test_a_mistake_of_the_command_line_is_told_there(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SMALL.format(estimate="{}"))
    with pytest.raises(StudyError) as caught:
        load_study(path, ["estimate.stages.bse.step_s=3"])
    assert str(caught.value).startswith("command line: estimate.stages.bse: no variant has a stage `bse`")


@pytest.mark.parametrize(
    ("stated", "place", "message"),
    [
        ("{step_s: soon}", "estimate.step_s", "must be a duration such as 6h"),
        ("{step_s: -3}", "estimate.step_s", "must be from 0 to 3.1536e+09, got -3"),
        ("{save_s: 10-5 min}", "estimate.save_s", "a range goes from low to high, got 600 to 300"),
        ("{save_s: 1e12}", "estimate.save_s", "must be from 0 to 3.1536e+09, got 1e+12"),
        ("{stages: {bse: {step_s: 1}}}", "estimate.stages.bse", "no variant has a stage `bse`; did you mean `base`?"),
        ("{claims: {v.basis: {total: 1h}}}", "estimate.claims.v.basis", "no variant has a stage `v.basis`"),
        ("{step: 3}", "estimate.step", "did you mean `step_s`?"),
        ("{claims: {base: {uploads: 3}}}", "estimate.claims.base.uploads", "did you mean `uploads_gb`?"),
        ("{gpu_memory_gb: 0}", "estimate.gpu_memory_gb", "must be greater than 0"),
        ("3", "estimate", "must be a mapping of keys"),
    ],
)
def test_mistakes_are_told_at_their_line(tmp_path: Path, stated: str, place: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        of_text(tmp_path, stated)
    assert f"s.yaml:8: {place}: " in str(caught.value)
    assert message in str(caught.value)

"""Two variants that share a job state one time of it, not two."""

import re
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = """\
study: small
seeds: [1, 2]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {d: {type: digits}}
defaults: {data: d, effective_batch_size: 4, learning_rate: 1e-3, max_steps: 10}
stages: {base: {}, adapt: {adapter: {lora_r: 2}}}
variants: {short: {stages: [base]}, long: {stages: [base, adapt]}}
estimate:
  stages:
    short.base: {step_s: 3}
    long.base: {step_s: 5}
"""


def planned(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return make_plan(load_study(path), tmp_path / "results")


def test_two_numbers_of_one_job_are_refused_with_both_places(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        planned(tmp_path, STUDY)
    told = str(caught.value).replace(f"{tmp_path}/", "")
    assert told == (
        "small.yaml:11: estimate.stages.long.base.step_s: small.yaml:10: estimate.stages.short.base.step_s states "
        "another number of the same job, which both variants share; keep one of them, or state it of the stage `base`"
    )


@pytest.mark.parametrize(
    "edit",
    [
        ("step_s: 5", "step_s: 3"),
        ("step_s: 5", "evaluation_s: 5"),
        ("long: {stages: [base, adapt]}", "long: {stages: [base], overrides: {base: {max_steps: 20}}}"),
    ],
    ids=["equal", "of another kind", "of another job"],
)
def test_what_does_not_contradict_is_taken(tmp_path: Path, edit: tuple[str, str]) -> None:
    assert re.search(re.escape(edit[0]), STUDY)
    assert planned(tmp_path, STUDY.replace(*edit)).jobs

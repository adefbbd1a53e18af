"""Names of repositories: one for every job, told at its line before anything runs."""

from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan
from tunestudy.study.sharing import Target, repo_name, targets_of

STUDY = """\
study: s
seeds: [1, 2]
model: {{architecture: qwen3, tokenizer: {{type: characters, alphabet: "01"}}}}
datasets: {{d: {{type: digits}}}}
stages:
  base: {{data: d, learning_rate: 1.0e-3}}
  adapt:
    data: d
    learning_rate: 1.0e-3
    {key}
variants:
  a: {{stages: [base, adapt]}}
  b: {{stages: [base, adapt], overrides: {{adapt: {{{override}}}}}}}
"""


def planned(tmp_path: Path, key: str, override: str = "learning_rate: 2.0e-3") -> tuple[list[Job], list[str]]:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.format(key=key, override=override), encoding="utf-8")
    plan = make_plan(load_study(path), tmp_path / "results")
    return [one.job for one in plan.jobs if one.job.settings and one.job.settings.push_to_hub], plan.warnings


def test_each_job_has_a_repository_of_its_own_by_default(tmp_path: Path) -> None:
    jobs, _ = planned(tmp_path, "push_to_hub: true")
    assert [target.repo for target in targets_of(jobs, "s")] == [
        "s-a-seed1-adapt",
        "s-b-seed1-adapt",
        "s-a-seed2-adapt",
        "s-b-seed2-adapt",
    ]


def test_places_and_ways_are_the_stage_s(tmp_path: Path) -> None:
    key = 'push_to_hub: true\n    hub_model_id: "me/{variant}.{seed}"\n    hub_private_repo: true\n'
    jobs, _ = planned(tmp_path, key + "    hub_revision: trial\n    hub_strategy: checkpoint")
    wanted = Target(job=jobs[0].id, repo="me/a.1", private=True, revision="trial", strategy="checkpoint")
    assert targets_of(jobs, "s")[0] == wanted


def test_settings_of_the_hub_leave_jobs_as_they_are(tmp_path: Path) -> None:
    with_hub, _ = planned(tmp_path, "push_to_hub: true\n    hub_strategy: all_checkpoints")
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.format(key="", override="learning_rate: 2.0e-3"), encoding="utf-8")
    plain = {one.job.id for one in make_plan(load_study(path), tmp_path / "results").jobs}
    assert {job.id for job in with_hub} <= plain


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("me/{variant}", r"s\.yaml:11: .*`me/a` would be written by .*seed 1.* and by .*seed 2.*put \{seed\} into"),
        ("me/{varient}-{seed}", r"s\.yaml:11: .*no `\{varient\}`; did you mean `variant`"),
        ("me/mine/{variant}-{seed}", "no name of a repository"),
        ("me/{variant}--{seed}", "no name of a repository"),
        ("me/" + "x" * 97 + "{variant}{seed}", "at most 96"),
    ],
)
def test_names_that_cannot_be_are_told_at_their_line(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(StudyError, match=told) as error:
        planned(tmp_path, f'push_to_hub: true\n    hub_model_id: "{name}"')
    raise_shown = str(error.value)
    assert raise_shown.startswith(str(tmp_path))


def test_variants_that_share_a_job_share_its_place(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"b and a train this stage alike and share the job .*give both the same"):
        planned(tmp_path, "push_to_hub: true", override="push_to_hub: false")
    with pytest.raises(StudyError, match="goes to one place"):
        planned(tmp_path, "", override="push_to_hub: true")


def test_a_name_without_a_push_is_told(tmp_path: Path) -> None:
    _, warnings = planned(tmp_path, "hub_model_id: me/x")
    assert any("only `tunestudy push` will use it" in one for one in warnings)


def test_a_token_in_the_file_is_refused_with_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="hf auth login"):
        planned(tmp_path, "hub_token: abc")


def test_values_become_parts_of_a_name_that_the_hub_takes(tmp_path: Path) -> None:
    jobs, _ = planned(tmp_path, "push_to_hub: true")
    odd = jobs[0].model_copy(update={"variants": ("lora r=4 --ö..x",)})
    assert repo_name("me/{variant}", odd, "s") == "me/lora-r-4-.x"

"""Which stages of a variant have a world part, what may learn beside it, and what the plan knows of it."""

import importlib.util
from dataclasses import replace
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.world import WorldSettings
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.checks import check, part_problems

Folder = Any
STUDY = """\
study: theworld
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 32, num_hidden_layers: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg"}
datasets: {rows: {type: digits}}
defaults: {data: rows, learning_rate: 1e-3, effective_batch_size: 16}
stages:
  align:
    world: {encoder: {config: {z_dim: 4}}, tokens: 16}
  more: {max_steps: 5}
variants:
  base: {stages: []}
  random: {stages: [align], overrides: {align: {train: none}}}
  aligned: {stages: [align]}
  longer: {stages: [align, more]}
"""


def test_the_part_is_kept_by_later_stages_and_alone_learns(folder: Folder) -> None:
    variants = folder.load(STUDY).study.variants
    align, more = variants["longer"].stages.values()
    assert (
        more.world == align.world == WorldSettings.model_validate({"encoder": {"config": {"z_dim": 4}}, "tokens": 16})
    )
    assert (align.train, more.train, more.init) == (("world_projector",), ("world_projector",), "continue")
    assert variants["aligned"].stages["align"] is align, "shared with the longer variant"
    assert variants["random"].stages["align"].trains_nothing


def test_the_lineage_reaches_back_to_the_base_that_results_name(folder: Folder) -> None:
    text = STUDY.replace("stages: [align, more]", "stages: [whole, align, more]").replace(
        "  more:", "  whole: {max_steps: 5}\n  more:"
    )
    jobs = {planned.job.stage: planned.job for planned in folder.plan(text).jobs if "longer" in planned.job.variants}
    assert jobs["align"].parents == (jobs["whole"].id,)
    assert jobs["more"].parents == (jobs["whole"].id, jobs["align"].id)


def test_a_baseline_that_trains_nothing_takes_no_steps(folder: Folder) -> None:
    plan = folder.plan(STUDY)
    steps = {planned.job.variants[0]: planned.steps for planned in plan.jobs}
    assert steps["random"] == 0 and steps["aligned"]
    assert len({planned.job.fingerprint for planned in plan.jobs}) == 4


def test_an_encoders_device_changes_no_fingerprint_and_everything_else_does(folder: Folder) -> None:
    def fingerprint(part: str) -> str:
        return folder.plan(STUDY.replace("tokens: 16", part)).jobs[-1].job.fingerprint

    assert fingerprint("tokens: 16") == fingerprint("tokens: 16, device: 'cuda:1'")
    assert (
        len({fingerprint(part) for part in ("tokens: 16", "tokens: 25", "num_world_steps: 2", "image_size: 64")}) == 4
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("more: {max_steps: 5}", "more: {adapter: {}}", "inherits a world part"),
        ("more: {max_steps: 5}", "more: {train: [language_model]}", "inherits a world part"),
        ("more: {max_steps: 5}", "more: {world: {encoder: {config: {z_dim: 4}}, tokens: 4}}", "another tokens"),
        ("train: none", "train: all", "published by itself"),
        ("train: none", "adapter: {type: lora}", "published by itself"),
        ("train: none", "components: {rope2d: true}", "cannot hold new components"),
        ("train: none", "world: {tokens: 7}", "nearest: 4, 9"),
        ("train: none", "world: {projection: mpl}", "mpl"),
        ("more: {max_steps: 5}", "more: {init: base, train: [world_projector]}", "needs a `world:`"),
    ],
)
def test_what_the_small_result_could_not_hold_is_refused(folder: Folder, old: str, new: str, message: str) -> None:
    assert old in STUDY
    text = STUDY.replace(old, new)
    told = folder.error(text)
    where = text.index(
        "align:" if message in ("published by itself", "cannot hold new components") else new
    )  # of two keys that exclude each other
    assert message in told and f"study.yaml:{text[:where].count(chr(10)) + 1}:" in told, told


def test_without_the_extra_no_job_starts(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = folder.plan(STUDY)
    jobs = [planned.job for planned in plan.jobs]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else real(name))
    asked = Asked(folder.load(STUDY), jobs, plan.folder, starts=True)
    told = [str(problem) for problem in part_problems(asked)]
    assert told == ["stages.align.world: needs diffusers: pip install 'tunestudy[world]'"]
    with pytest.raises(StudyError, match="diffusers") as caught:
        check(folder.load(STUDY), jobs, plan.folder)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    only_base = [job for job in jobs if job.settings is None]
    assert not list(part_problems(replace(asked, unfinished=only_base)))


def test_a_limit_bounds_the_steps_where_records_cannot_be_counted(folder: Folder) -> None:
    text = STUDY.replace("{type: digits}", "{type: hub, name: some/captions, limit: 1000}")
    (planned,) = [one for one in folder.plan(text).jobs if one.job.variants == ("aligned", "longer")]
    assert planned.steps == 63 and planned.estimate.steps and not planned.estimate.steps.exact
    unknown = folder.plan(text.replace(", limit: 1000", "")).jobs
    assert next(one for one in unknown if one.job.variants == ("aligned", "longer")).steps is None

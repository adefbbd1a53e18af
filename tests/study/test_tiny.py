"""The small form of a study: other weights and data, the same jobs; and every shipped one keeps that promise."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.show import validation_lines

Folder = Any
STUDIES = Path(__file__).parents[2] / "studies"
SHIPPED = sorted(path.stem for path in STUDIES.glob("*.yaml") if "\ntiny:" in path.read_text(encoding="utf-8"))

TINY = """
tiny:
  model: {architecture: llama, config: {hidden_size: 16}, tokenizer: {type: characters, alphabet: "01"}}
  datasets:
    rotated: {type: digits, held_out: 0.5}
  defaults: {max_grad_norm: 0.5}
  stages:
    adapt: {max_steps: 7}
  resources: {ranks: 2}
  variants:
    full: {overrides: {adapt.learning_rate: 0.5}}
"""


def shape(plan: Plan) -> list[tuple[Any, ...]]:
    """What must not differ: jobs by stage, variants and seed, and what each builds on.

    An untrained model is one job if it is pretrained, and one for each seed if its weights are random.
    """
    names = {planned.job.id: (planned.job.stage, planned.job.variants, planned.job.seed) for planned in plan.jobs}
    trained = [planned.job for planned in plan.jobs if planned.job.settings is not None]
    untrained = {planned.job.variants for planned in plan.jobs if planned.job.settings is None}
    return [
        *sorted(untrained),
        *sorted((*names[job.id], sorted(names[parent] for parent in job.parents)) for job in trained),
    ]


def test_sizes_change_and_the_jobs_do_not(folder: Folder, edited: Any, tmp_path: Path) -> None:
    path = folder.write(edited() + TINY)
    large, small = load_study(path), load_study(path, ["stages.adapt.max_steps=8"], tiny=True)
    assert (large.study.study, small.study.study) == ("digits", "digits-tiny")
    assert (large.study.model.architecture, small.study.model.architecture) == ("qwen3", "llama")
    assert small.study.model.config == {"hidden_size": 16}
    assert (small.study.datasets["rotated"].rotate, small.study.datasets["rotated"].held_out) == (0, 0.5)
    adapt = small.study.variants["full"].stages["adapt"]
    assert (adapt.max_steps, adapt.learning_rate, adapt.max_grad_norm) == (8, 0.5, 0.5)
    assert large.study.variants["full"].stages["adapt"].max_grad_norm == 1.0
    assert small.study.resources.ranks == 2
    assert shape(make_plan(large, tmp_path)) == shape(make_plan(small, tmp_path))
    assert any("--tiny" in line for line in validation_lines(large))


def test_a_file_without_the_section(folder: Folder) -> None:
    path = folder.write()
    with pytest.raises(StudyError, match="has no `tiny:` section"):
        load_study(path, tiny=True)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("seeds: [1]", "tiny.seeds: the small study cannot have its own `seeds`; known are: model, datasets"),
        ("default: {}", "tiny.default: the small study cannot have its own `default`; did you mean `defaults`?"),
        ("datasets: {rotatd: {type: digits}}", "the study has no `datasets.rotatd`; did you mean `rotated`?"),
        ("stages: {adept: {max_steps: 3}}", "the study has no `stages.adept`; did you mean `adapt`?"),
        ("variants: {full: {stages: [base]}}", "only `overrides:` of a variant can differ"),
        ("stages: 3", "must be a mapping of keys"),
    ],
)
def test_what_the_small_form_cannot_change(folder: Folder, edited: Any, written: str, message: str) -> None:
    told = folder.error(edited() + f"tiny:\n  {written}\n")
    assert message in told
    assert told.startswith("study.yaml:27: tiny.")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("defaults: {max_step: 3}", "study.yaml:27: defaults.max_step: there is no key `max_step` here; did you mean"),
        ("stages: {adapt: {max_steps: some}}", "study.yaml:27: stages.adapt.max_steps: must be a whole number"),
    ],
)
def test_its_own_mistakes_are_told_by_validate_at_their_line(
    folder: Folder, edited: Any, written: str, message: str
) -> None:
    loaded = folder.load(edited() + f"tiny:\n  {written}\n")
    with pytest.raises(StudyError) as caught:
        validation_lines(loaded)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_studies_have_the_same_jobs_in_small(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(STUDIES, tmp_path / "studies")
    plans = [make_plan(load_study(folder / f"{name}.yaml", tiny=tiny), tmp_path) for tiny in (False, True)]
    assert shape(plans[0]) == shape(plans[1])
    assert not [line for line in plans[1].warnings if "pinned" not in line]


def test_seed_004_ships() -> None:
    assert "glm_air_fsdp" in SHIPPED

"""The world study that ships: its three sizes take the steps of its plan, its baselines none."""

import shutil
from pathlib import Path

from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = Path(__file__).parents[2] / "studies" / "theworld_datacomp.yaml"
STEPS = {"fast_10k": 3_125, "plan_100k": 18_750, "full_12_8m": 800_000, "random_projection": 0, "base": 0}


def plan_of(folder: Path) -> Plan:
    """With nothing fetched: how many records there are is what the study says."""
    shutil.copy(STUDY, folder)
    return make_plan(load_study(folder / STUDY.name), folder / "results")


def test_three_sizes_take_the_steps_of_the_plan(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert {name: planned.steps for planned in plan.jobs for name in planned.job.variants} == STEPS
    bounded = [planned for planned in plan.jobs if planned.steps]
    assert not any(planned.estimate.steps.exact for planned in bounded if planned.estimate.steps), "URLs may be dead"


def test_the_settings_of_the_plan(tmp_path: Path) -> None:
    variants = plan_of(tmp_path).study.variants
    stages = [variant.stages["align"] for variant in variants.values() if variant.stages]
    assert {(s.effective_batch_size, s.learning_rate, s.warmup_steps, s.weight_decay) for s in stages} == {
        (16, 1e-4, 500, 0.01)
    }
    assert {stage.world.num_world_steps for stage in stages if stage.world} == {0}
    assert [
        name for name, variant in variants.items() if variant.stages and variant.stages["align"].trains_nothing
    ] == ["random_projection"]


def test_differences_are_meant(tmp_path: Path) -> None:
    assert not [line for line in plan_of(tmp_path).warnings if "pinned" not in line]


def test_what_fetch_has_still_to_pin_is_told_by_data_set_and_by_job(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    told = [line.partition(":")[0] for line in plan.warnings if "not final" in line]
    assert told == ["datasets.captions_10k", "datasets.captions_100k", "datasets.captions_12_8m"]
    weights = ["google/gemma-3-4b-it", "nvidia/Cosmos-Predict2-2B-Video2World"]
    jobs = {job["variants"][0]: job["not_final"] for job in plan.as_json()["jobs"]}
    assert jobs == {
        "base": weights[:1],
        "random_projection": ["captions_100k", *weights],
        "plan_100k": ["captions_100k", *weights],
        "fast_10k": ["captions_10k", *weights],
        "full_12_8m": ["captions_12_8m", *weights],
    }

"""The world study that ships: its three sizes take the steps of its plan, its baselines none."""

import shutil
from pathlib import Path

from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = Path(__file__).parents[2] / "studies" / "theworld_datacomp.yaml"
STEPS = {"fast_10k": 3_125, "plan_100k": 18_750, "full_12_8m": 800_000, "random_projection": 0, "base": 0}


def plan_of(folder: Path) -> Plan:
    """With one record of metadata: how many there are is what the study says."""
    shutil.copy(STUDY, folder)
    (folder / "datacomp_small").mkdir()
    line = '{"uid": "00", "url": "https://example.com/0.jpg", "text": "a", "sha256": ""}\n'
    (folder / "datacomp_small" / "metadata.jsonl").write_text(line)
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

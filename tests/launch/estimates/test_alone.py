"""A stage by itself, as it is timed and counted."""

from dataclasses import replace
from pathlib import Path

from tunestudy.config.components import Rope2d, VisionComponents
from tunestudy.config.merge import MergeStage
from tunestudy.launch.estimates.alone import alone
from tunestudy.launch.estimates.probe import time_job
from tunestudy.launch.estimates.schedule import memory_of
from tunestudy.launch.local import Slot
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.layout import JobDir
from tunestudy.study.estimates.timing import expected_times, speed_key
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, PlannedJob, make_plan

STUDY = """\
study: small
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}
  tokenizer: {type: characters, alphabet: "0123456789"}
datasets: {d: {type: digits}}
defaults: {data: d, max_steps: 3, learning_rate: 1e-3}
stages: {base: {}, adapt: {adapter: {lora_r: 2}}}
variants: {lora: {stages: [base, adapt]}}
"""
COMPONENTS = VisionComponents(rope2d=Rope2d())


def planned(tmp_path: Path) -> Plan:
    """A plan whose first stage adds components; what they need of a model is not looked at here."""
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    plan = make_plan(load_study(path), tmp_path / "results")
    base, adapt = plan.jobs
    assert base.job.training is not None
    settings = base.job.training.model_copy(update={"components": COMPONENTS})
    first = PlannedJob(base.job.model_copy(update={"settings": settings}), base.status, base.estimate)
    return replace(plan, jobs=[first, adapt])


def test_it_begins_with_the_components_that_an_earlier_stage_has_added(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    job = alone(plan, plan.jobs[1].job)
    assert job.training is not None and job.training.components == COMPONENTS
    assert (job.training.init, job.parents, job.evaluations) == ("base", (), {})


def test_steps_are_timed_with_them(tmp_path: Path) -> None:
    plan, told = planned(tmp_path), []

    def command(folder: JobDir, ranks: int) -> list[str]:
        told.append(read_json(folder.job_json)["settings"]["components"])
        return ["true"]

    job = plan.jobs[1].job
    slot = Slot(name="cpu0", ranks=1, devices=(), threads=1)
    assert time_job(plan, job, "key", slot, command) == ["adapt (lora) could not be timed: it left no message"]
    assert told == [COMPONENTS.model_dump(mode="json")]


def test_what_only_its_start_has_names_other_steps(tmp_path: Path) -> None:
    """Of two jobs of the same settings one has components by its parent: neither takes the other's time or memory."""
    plan = planned(tmp_path)
    bare = make_plan(load_study(tmp_path / "small.yaml"), tmp_path / "results")
    keys = [speed_key(one, one.jobs[1].job, ranks=1, host="here") for one in (plan, bare)]
    assert keys[0] != keys[1]


def test_components_come_through_a_merge(tmp_path: Path) -> None:
    """A merge has those of the first of its models that has any."""
    plan = planned(tmp_path)
    base, adapt = (one.job for one in plan.jobs)
    merge = base.model_copy(
        update={
            "id": "soup-1",
            "settings": MergeStage(type="merge", method="linear", models={"one": "base"}),
            "inputs": {"none": "gone", "one": base.id},
        }
    )
    after = adapt.model_copy(update={"parents": (merge.id,)})
    soup = PlannedJob(merge, plan.jobs[0].status, plan.jobs[0].estimate)
    plan = replace(plan, jobs=[*plan.jobs, soup])
    found = alone(plan, after).training
    assert found is not None and found.components == COMPONENTS


def test_what_took_a_bare_model_so_long_tells_nothing_of_one_with_components(tmp_path: Path) -> None:
    """Both jobs share their stage's settings as one object, and one of them is done."""
    plan = planned(tmp_path)
    bare = plan.jobs[1].job.model_copy(update={"id": "adapt-bare", "parents": (), "variants": ("other",)})
    plan = replace(plan, jobs=[*plan.jobs, PlannedJob(bare, plan.jobs[1].status, plan.jobs[1].estimate)])
    result = {"fingerprint": bare.fingerprint, "duration_s": 5.0, "peak_memory_mb": 100.0}
    write_json(plan.folder.job(bare.id).result_json, result)
    known = {name for name, time in expected_times(plan, ranks=1, host="here").items() if time.train_s is not None}
    assert known == set(memory_of(plan)) == {bare.id}

"""A stage by itself, as it is timed and counted."""

from dataclasses import replace
from pathlib import Path

from tunestudy.config.components import Rope2d, VisionComponents
from tunestudy.launch.estimates.alone import alone
from tunestudy.launch.estimates.probe import time_job
from tunestudy.launch.local import Slot
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir
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

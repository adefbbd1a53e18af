"""A stage with a world part: what it refuses, what it warns of, and the baseline that trains nothing."""

import json
from typing import Any

import pytest
import torch
from tinyjob import make_job, run, tiny_model
from world_lab import world_settings

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.models.components.world import load_world, world_of, world_text
from tunestudy.models.results import load_result
from tunestudy.records.manifest import read_manifest
from tunestudy.train.loop import BLIND_MARGIN
from tunestudy.train.trainable import UntrainedError
from tunestudy.train.world import World

WORLD = world_settings().model_dump(mode="json")


def test_a_random_projection_is_published_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "barrier", lambda _: pytest.fail("a collective would time out while rank 0 writes"))
    folder = make_job(tmp_path, world=WORLD, train="none")
    assert run(folder)
    result = json.loads(folder.result_json.read_text())
    assert (result["steps"], result["trainable_params"], result["model_kind"]) == (0, 0, "world")
    assert not list(folder.root.glob("checkpoint-*")) and not folder.loss_log.exists()
    found, again = world_of(load_result(folder, "cpu").model), world_of(load_world(folder.model)[0])
    job = Job.model_validate_json(folder.job_json.read_text())
    torch.manual_seed(job.seed)
    fresh = torch.nn.Linear(4, 32)
    for part in (found, again):
        assert torch.equal(part.world_projector.projection[0].weight, fresh.weight)
    manifest = read_manifest(folder.model)
    assert manifest is not None and (manifest["kind"], manifest["step"]) == ("world", 0)
    assert manifest["fingerprint"] == job.fingerprint


def test_data_without_images_are_noticed_at_the_first_step(tmp_path):
    folder = make_job(tmp_path, world=WORLD)
    with pytest.raises(UntrainedError, match="6 trainable tensors got no gradient"):
        run(folder)


def replace_records(folder: Any, text: str) -> None:
    rows = [{"id": str(i), "prompt": f"{text}ab{i % 10} ?", "completion": text if i == 0 else "c"} for i in range(40)]
    (folder.root.parents[3] / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_tokens_that_stand_for_pixels_are_never_targets(tmp_path):
    folder = make_job(tmp_path, world=WORLD, max_length=64)
    replace_records(folder, world_text(world_settings()))
    with pytest.raises(StudyError, match=r"6 targets are tokens of the world part.*out of the answers"):
        run(folder)


def test_learning_prompts_too_is_told_with_its_key(tmp_path):
    folder = make_job(tmp_path, world=WORLD, loss_on="all", max_length=64)
    replace_records(folder, world_text(world_settings()))
    with pytest.raises(StudyError, match="leave loss_on: all out") as caught:
        run(folder)
    assert caught.value.place.key == "stages.adapt.loss_on"


def test_only_the_part_has_a_row_of_trainable_numbers(tmp_path, capsys):
    folder = make_job(tmp_path, world=WORLD)
    with pytest.raises(UntrainedError):
        run(folder)
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    learnt = (4 * 32 + 32) + (32 * 32 + 32) + 16 * 32 + 2 * 32
    assert rows["world_projector"][1:3] == [f"{learnt:,}"] * 2
    assert rows["language_model"][2] == rows["world_encoder"][2] == "0"
    assert int(rows["world_encoder"][1].replace(",", "")) > 50_000


@pytest.mark.parametrize(("spread", "warned"), [(0.02, False), (8.0, True)])
def test_a_first_loss_above_that_of_guessing_is_told(tmp_path, capsys, spread, warned):
    """Logits of a model with huge weights are far from even, so its first loss is far above ln V."""
    model = tiny_model(initializer_range=spread)
    folder = make_job(tmp_path, model=model, max_steps=2)
    assert run(folder)
    told = [line for line in capsys.readouterr().err.splitlines() if "guessing blindly" in line]
    assert len(told) == warned
    if warned:
        first, blind = (float(word.rstrip(".;")) for word in told[0].split() if word[0].isdigit())
        size = len(model["tokenizer"]["alphabet"]) + 4
        assert blind == pytest.approx(torch.log(torch.tensor(float(size))).item(), abs=5e-3)
        assert first > blind + BLIND_MARGIN

"""Checkpoints are scored as the model that they were written from, once, and whatever the adapter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import ADAPTER, make_job, run

from tunestudy.bench.checkpoints import build, missing_scores, put_checkpoint, score_checkpoints
from tunestudy.bench.run import run_benchmarks
from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.study.state import job_status, missing_evaluations
from tunestudy.train.world import World

IDS = torch.tensor([[3, 4, 5, 6, 7]])
KEPT = {
    "save_total_limit": 20,
    "drop_intermediate": False,
    "save_on_epoch_end": False,
    "lr_scheduler_type": "constant",
    "learning_rate": 0.02,
}
SPARSE = {**ADAPTER, "type": "sora", "sparse_lambda": 5e-3}
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": ADAPTER},
    "dora": {"adapter": {**ADAPTER, "type": "dora"}},
    "sora": {"adapter": SPARSE},
    "pissa": {"adapter": {**ADAPTER, "init_lora_weights": "pissa"}},
    "head beside": {"adapter": {**ADAPTER, "target_modules": ["q_proj"]}, "train": ["lm_head"]},
}


def trained(root: Path, name: str, wanted: Any = True, **settings: Any) -> tuple[Job, JobDir]:
    """A trained job with a benchmark whose checkpoints are wanted."""
    folder = make_job(root, name, **{**KEPT, "max_steps": 6, **settings})
    job = json.loads(folder.job_json.read_text())
    said = {"type": "exact_match", "dataset": "first@held_out", "max_new_tokens": 4, "checkpoints": wanted}
    job["evaluations"] = {"said": {"benchmark": said, "fingerprint": "f"}}
    folder.job_json.write_text(json.dumps(job))
    assert run(folder)
    return Job.model_validate(job), folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def at_step(job: Job, folder: JobDir, step: int) -> torch.Tensor:
    built = build(job, folder, World())
    put_checkpoint(folder, f"checkpoint-{step}", built)
    return logits(built.model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_the_model_of_a_training_that_ended_there(tmp_path: Path, kind: str) -> None:
    settings = {**KINDS[kind], "model": None}
    if kind == "head beside":
        from tinyjob import tiny_model

        settings["model"] = tiny_model(tie_word_embeddings=False)
    job, folder = trained(tmp_path, "long", **settings)
    _, short = trained(tmp_path, "short", **{**settings, "max_steps": 3})
    middle, last = at_step(job, folder, 3), at_step(job, folder, 6)
    torch.testing.assert_close(middle, logits(load_result(short, "cpu").model), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, logits(load_result(folder, "cpu").model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(middle, last, atol=1e-2)


def test_a_stage_that_goes_on_from_an_adapter(tmp_path: Path) -> None:
    _, before = trained(tmp_path, "before", adapter=ADAPTER)
    job, folder = trained(tmp_path, "after", adapter=ADAPTER, after=before, init="continue")
    torch.testing.assert_close(at_step(job, folder, 6), logits(load_result(folder, "cpu").model))
    job, folder = trained(tmp_path, "stacked", adapter=ADAPTER, after=before, init="stack")
    torch.testing.assert_close(at_step(job, folder, 6), logits(load_result(folder, "cpu").model), rtol=1e-4, atol=1e-5)


def test_scores_lie_by_checkpoint_and_are_made_once(tmp_path: Path) -> None:
    job, folder = trained(tmp_path, "adapt", adapter=ADAPTER)
    assert run_benchmarks(job, folder, World(), StopRequest())
    assert job_status(folder, job) == "evaluate"
    assert set(missing_evaluations(folder, job)) == {"said of checkpoint-3", "said of checkpoint-6"}
    assert score_checkpoints(job, folder, World(), StopRequest())
    assert job_status(folder, job) == "done"
    told = {step: folder.root / f"eval/checkpoint-{step}" for step in (3, 6)}
    assert {path.name for path in told[3].iterdir()} == {"said.json", "said.predictions.jsonl"}
    final = folder.predictions("said").read_text()
    assert (told[6] / "said.predictions.jsonl").read_text() == final
    assert (told[3] / "said.predictions.jsonl").read_text() != final
    (told[3] / "said.json").unlink()
    written = (told[6] / "said.json").stat().st_mtime_ns
    assert missing_scores(job, folder) == {"checkpoint-3": ["said"]}
    assert score_checkpoints(job, folder, World(), StopRequest())
    assert (told[6] / "said.json").stat().st_mtime_ns == written
    assert missing_scores(job, folder) == {}


@pytest.mark.parametrize(("wanted", "steps"), [(True, [3, 6]), ([6, 9], [6]), (False, [])])
def test_the_steps_that_are_wanted(tmp_path: Path, wanted: Any, steps: list[int]) -> None:
    job, folder = trained(tmp_path, "adapt", wanted)
    assert list(missing_scores(job, folder)) == [f"checkpoint-{step}" for step in steps]
    waiting = [name for name in missing_evaluations(folder, job) if " of " in name]
    assert waiting == [f"said of checkpoint-{step}" for step in steps]


def test_what_retention_removed_is_left_out(tmp_path: Path) -> None:
    job, folder = trained(tmp_path, "adapt", drop_intermediate=True, save_best_k=0)
    assert list(missing_scores(job, folder)) == ["checkpoint-6"]


def test_a_stop_leaves_the_rest_for_the_next_time(tmp_path: Path) -> None:
    job, folder = trained(tmp_path, "adapt")
    stop = StopRequest()
    stop.wanted = True
    assert not score_checkpoints(job, folder, World(), stop)
    assert len(missing_scores(job, folder)) == 2


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    job, folder = trained(tmp_path, "adapt")
    file = folder.root / "checkpoint-3" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(StudyError, match=r"does not match its SHA-256.*delete that folder"):
        score_checkpoints(job, folder, World(), StopRequest())

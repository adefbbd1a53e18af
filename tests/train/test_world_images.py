"""Images through the whole of a stage with a world part: batches, loss, training, resume, result, scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from losses import token_losses
from PIL import Image
from safetensors.torch import load_file
from stops import Crash, CrashAt, StopAt
from tinyeyes import CONFIGS, corpus_of_examples, example, eyes_of, model_settings, tiny
from tinyjob import facts_of, make_job, rows_of, run
from tinyranks import start
from world_lab import world_settings

from tunestudy.bench.run import run_benchmarks
from tunestudy.config.benchmark import MultipleChoice
from tunestudy.config.job import Evaluation, Job
from tunestudy.data.batch import batch_of
from tunestudy.models.components.world import install_world, load_world, world_of
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.train.loss import LossModel
from tunestudy.train.world import World

WORLD = world_settings(num_world_steps=1).model_dump(mode="json")
SIZES = [((28, 28),), (), ((56, 28), (28, 28)), ((40, 64),)]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_batch_of_any_layout_is_each_sample_alone(architecture, tmp_path):
    loaded = tiny(architecture)
    install_world(loaded.model, loaded.tokenizer, world_settings(num_world_steps=1), seed=1)
    examples = [example(seed, *sizes) for seed, sizes in enumerate(SIZES)]
    corpus, eyes = corpus_of_examples(examples, loaded, tmp_path), eyes_of(loaded, tmp_path)
    model = LossModel(loaded.model.eval())

    def nll(rows: Any, layout: Any) -> torch.Tensor:
        batch = batch_of(corpus, rows, layout, eyes=eyes)
        return token_losses(model, batch).nll_sum

    with torch.no_grad():
        alone = torch.stack([nll([(sample,)], "right") for sample in range(4)])
        blind = nll([(1,)], "right")
        assert alone[1] == blind, "a sample without images, beside a blank one for the tower"
        for rows in ([(0,), (1,), (2,), (3,)], [(0, 1, 2, 3)], [(3, 0), (2, 1)]):
            torch.testing.assert_close(nll(rows, "right"), alone.sum(), rtol=2e-5, atol=1e-4)


def seeing_job(root: Path, name: str = "adapt", **settings: Any) -> JobDir:
    """Dark images are called a, light ones b; a third of the records has none."""
    options = {"world": WORLD, "max_length": 64, "max_steps": 6, "learning_rate": 1e-2, "neftune_noise_alpha": None}
    folder = make_job(root, name, model=model_settings("gemma3"), **{**options, **settings})
    rows = []
    for number in range(24):
        light = number % 2
        values = np.random.default_rng(number).integers(128 * light, 128 * light + 128, (28, 28, 3), np.uint8)
        Image.fromarray(values).save(root / f"{number}.png")
        image = {} if number % 3 == 2 else {"image": f"{number}.png"}
        rows.append({"id": str(number), "prompt": "which?", "completion": "ab"[light], **image})
    (root / "first.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_it_trains_resumes_exactly_and_is_loaded_again(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole, cut = seeing_job(tmp_path / "whole"), seeing_job(tmp_path / "cut")
    assert run(whole)
    assert run(cut, stop=StopAt(2)) is False
    with pytest.raises(Crash):
        run(cut, stop=CrashAt(2))
    assert run(cut)
    assert facts_of(whole)["weights"] == facts_of(cut)["weights"]
    losses = [float(row["train_loss"]) for row in rows_of(whole.loss_log)]
    assert losses == [float(row["train_loss"]) for row in rows_of(cut.loss_log)]
    assert losses[-1] < losses[0]
    loaded, scored = world_of(load_world(whole.model)[0]), world_of(load_result(whole, "cpu").model)
    for name, value in scored.named_parameters():
        assert torch.equal(value, dict(loaded.named_parameters())[name]), name
    kept = sorted(path.name for path in whole.root.glob("checkpoint-*"))
    held = {path.name for path in (whole.root / kept[-1]).iterdir() if path.suffix == ".safetensors"}
    assert held == {"model.safetensors"}
    assert (whole.root / kept[-1] / "model.safetensors").stat().st_size < 4 * 1792 + 2048


def test_a_benchmark_sees_the_images(tmp_path):
    """Every row is scored with the published part."""
    folder = seeing_job(tmp_path, max_steps=2)
    assert run(folder)
    scored = benchmark_of(folder)
    run_benchmarks(scored, folder, World(), StopRequest())
    rows = [json.loads(line) for line in folder.predictions("names").read_text().splitlines()]
    assert len(rows) == 24
    found = json.loads(folder.eval_json("names").read_text())
    assert found["n"] == 24


def benchmark_of(folder: JobDir) -> Job:
    job = Job.model_validate_json(folder.job_json.read_text())
    benchmark = MultipleChoice(dataset="first", choices=("a", "b"))
    return job.model_copy(update={"evaluations": {"names": Evaluation(benchmark=benchmark, fingerprint="f")}})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "deepspeed"])
def test_two_ranks_learn_what_one_does_though_a_batch_has_no_image(engine, tmp_path):
    """Ranks whose batch has no image bring zeros for the same tensors in the same order."""
    options: dict[str, Any] = {"per_device_train_batch_size": 2, "optim": "sgd", "learning_rate": 0.5, "max_steps": 4}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = seeing_job(tmp_path / "one", **options), seeing_job(tmp_path / "two", engine=engine, **options)
    assert run(one)
    assert start(two).wait(timeout=300) == 0
    expected, found = (load_file(folder.model / "world.safetensors") for folder in (one, two))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)

"""A world part is published as a few tensors that name their base, and loaded by itself, as a parent, for scoring."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from world_lab import CONFIGS, TOKENIZER, WAN, build, pixels, world_settings

from tunestudy.config.errors import StudyError
from tunestudy.models.components.world import install_world, load_world, save_world, world_images, world_of, world_text
from tunestudy.models.results import load_result
from tunestudy.models.roles import set_trainable
from tunestudy.models.start import load_start

MODEL: dict[str, Any] = {
    "architecture": "qwen3",
    "config": CONFIGS["qwen3"],
    "tokenizer": TOKENIZER.model_dump(),
}
WORLD = world_settings().model_dump(mode="json")


def answers(model: Any, tokenizer: Any) -> torch.Tensor:
    text = f"a{world_text(world_of(model).settings)}="
    ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
    with world_images(model.eval(), pixels(1)), torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


@pytest.fixture
def published(lab, disturb):
    """A finished job whose stage trained a world part, and what its model answers."""
    job, folder = lab.job("align", model=MODEL, settings={"world": WORLD, "train": ["world_projector"]})
    loaded = load_start(job, folder, "cpu")
    set_trainable(loaded.model, ["world_projector"])
    disturb(loaded.model)
    lab.publish(folder, loaded)
    return folder, loaded.model, answers(loaded.model, loaded.tokenizer)


def test_three_lines_load_it_wherever_it_was_moved(published, tmp_path, monkeypatch):
    _, _, expected = published
    moved = tmp_path / "elsewhere"
    (tmp_path / "results").rename(moved)
    monkeypatch.chdir(moved)
    model, tokenizer = load_world(next(moved.rglob("model")))
    assert torch.equal(answers(model, tokenizer), expected)
    for path in (path for path in moved.rglob("*") if path.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_only_what_learns_is_written(published):
    folder, model, _ = published
    names = {path.name for path in folder.model.iterdir()}
    assert {"world.safetensors", "world.json", "tokenizer.json", "MANIFEST.json"} <= names
    assert not names & {"model.safetensors", "config.json"}
    width, rows = 32, 16
    learnt = (4 * width + width) + (width * width + width) + rows * width + 2 * width
    with safe_open(folder.model / "world.safetensors", "pt") as file:
        assert sum(file.get_tensor(name).numel() for name in file.keys()) == learnt  # noqa: SIM118 - not a dict
    size = (folder.model / "world.safetensors").stat().st_size
    assert 4 * learnt < size < 4 * learnt + 2048
    assert learnt == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_its_result_is_scored_and_trained_on(lab, published):
    folder, _, expected = published
    result = load_result(folder, "cpu")
    assert torch.equal(answers(result.model, result.tokenizer), expected)
    job, next_folder = lab.job(
        "more", parents=(folder.root.name,), model=MODEL, settings={"world": WORLD, "init": "continue"}
    )
    started = load_start(job, next_folder, "cpu")
    assert torch.equal(answers(started.model, started.tokenizer), expected)
    assert started.identity == result.identity


def test_a_stage_after_a_whole_model_gets_a_new_part_on_it(lab, disturb):
    job, folder = lab.job("base", model=MODEL)
    whole = load_start(job, folder, "cpu")
    disturb(whole.model)
    lab.publish(folder, whole)
    align, align_folder = lab.job("align", parents=(folder.root.name,), model=MODEL, settings={"world": WORLD})
    loaded = load_start(align, align_folder, "cpu")
    assert torch.equal(world_of(loaded.model).old.weight, whole.model.get_input_embeddings().weight)
    lab.publish(align_folder, loaded)
    assert json.loads((align_folder.model / "world.json").read_text())["base_model_name_or_path"].endswith("/model")
    expected = answers(loaded.model, loaded.tokenizer)
    assert torch.equal(answers(*load_world(align_folder.model)), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world": {**WORLD, "tokens": 1}, "init": "continue"}, "another tokens"),
        ({"adapter": {"type": "lora"}, "init": "continue"}, "published by itself"),
    ],
)
def test_another_part_on_top_is_refused(lab, published, settings, message):
    job, folder = lab.job("more", parents=(published[0].root.name,), model=MODEL, settings=settings)
    with pytest.raises(StudyError, match=message):
        load_start(job, folder, "cpu")


def pretrained_pair(root: Path) -> tuple[Any, Any]:
    """A base and an autoencoder in folders, as they come from a hub, and the model of both."""
    from diffusers import AutoencoderKLWan

    model, tokenizer = build("gemma3")
    model.save_pretrained(root / "base")
    model.name_or_path = str(root / "base")
    torch.manual_seed(4)
    AutoencoderKLWan(**WAN).save_pretrained(root / "pipeline" / "vae")
    settings = world_settings(encoder={"model_name_or_path": "pipeline"})
    install_world(model, tokenizer, settings, seed=1, base_dir=root)
    return model, tokenizer


@pytest.fixture
def saved(tmp_path):
    model, tokenizer = pretrained_pair(tmp_path)
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    save_world(model, folder)
    tokenizer.save_pretrained(folder)
    return folder, answers(model, tokenizer)


def test_a_pretrained_encoder_is_named_and_not_copied(saved):
    folder, expected = saved
    facts = json.loads((folder / "world.json").read_text())
    assert facts["settings"]["encoder"]["model_name_or_path"] == "../../pipeline"
    assert facts["base_model_name_or_path"] == "../../base"
    assert torch.equal(answers(*load_world(folder)), expected)


def other_encoder(folder: Path) -> None:
    weights = folder.parents[1] / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)


def other_base(folder: Path) -> None:
    weights = folder.parents[1] / "base" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})


def without(name: str) -> Any:
    def drop(folder: Path) -> None:
        tensors = load_file(folder / "world.safetensors")
        del tensors[name]
        save_file(tensors, folder / "world.safetensors")

    return drop


def not_finite(folder: Path) -> None:
    tensors = load_file(folder / "world.safetensors")
    tensors["world_borders.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "world.safetensors")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (other_encoder, "not the one it was trained with"),
        (other_base, "not the model it was trained on"),
        (lambda folder: shutil.rmtree(folder.parents[1] / "base"), "that folder is gone"),
        (lambda folder: (folder / "world.json").unlink(), "world.json is missing"),
        (lambda folder: (folder / "world.safetensors").write_bytes(b"0" * 50), "cannot be read"),
        (without("world_projector.temporal.weight"), "lacks world_projector.temporal.weight"),
        (not_finite, "not finite"),
    ],
)
def test_what_does_not_belong_together_is_refused(saved, harm, message):
    harm(saved[0])
    with pytest.raises(StudyError, match=message):
        load_world(saved[0])


def test_a_changed_byte_is_noticed(published):
    folder, _, _ = published
    weights = folder.model / "world.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StudyError, match="SHA-256"):
        load_world(folder.model)
    with pytest.raises(StudyError, match="SHA-256"):
        load_result(folder, "cpu")

"""A published model with components is a folder of its own kind: loaded in three lines, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunestudy.config.errors import StudyError
from tunestudy.config.model import ModelConfig
from tunestudy.models.components import load_vision_model
from tunestudy.models.hollow import hollow_start
from tunestudy.models.identity import folder_identity
from tunestudy.models.origin import Origin, pretrained

WEIGHTS, SETTINGS = "model.safetensors", "components.json"


@pytest.fixture
def saved(tiny, stir, everything, tmp_path) -> tuple[Path, Any]:
    model = tiny(everything)
    stir(model)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def as_a_study_loads(folder: Path, dtype: str = "float32") -> Any:
    settings = ModelConfig.model_validate({"model_name_or_path": str(folder), "dtype": dtype})
    return pretrained(Origin(str(folder)), settings, "cpu")


def lose_tensors(folder: Path, part: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("load", [load_vision_model, as_a_study_loads])
def test_loaded_equals_saved(saved, see, load):
    folder, model = saved
    again = load(folder)
    assert again.components == model.components
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    torch.testing.assert_close(see(again), see(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("components", [{"rope2d": {"gate": "none"}}, {"rope2d": {}}, {"pyramid": {}}])
def test_one_component_alone(tiny, stir, see, tmp_path, components):
    model = tiny(components)
    stir(model)
    model.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(see(load_vision_model(tmp_path / "model")), see(model), atol=1e-5, rtol=1e-5)


def test_saved_twice_is_the_same_bytes(saved, tmp_path):
    folder, _ = saved
    load_vision_model(folder).save_pretrained(tmp_path / "again")
    for name in (WEIGHTS, SETTINGS, "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_weights_keep_the_names_of_a_stock_model(saved, tiny, tmp_path):
    tiny().save_pretrained(tmp_path / "stock")
    stock, ours = load_file(tmp_path / "stock" / WEIGHTS), load_file(saved[0] / WEIGHTS)
    assert {name for name in stock if "projector" not in name} <= set(ours)


def test_in_half_precision(saved):
    model = as_a_study_loads(saved[0], "bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.multi_modal_projector.net[0].b1.conv1.conv.weight.abs().sum() > 0


@pytest.mark.parametrize("part", ["rope2d", "pyramid.smooth", "net.2.b1.se", "pos_emb"])
@pytest.mark.parametrize("load", [load_vision_model, as_a_study_loads])
def test_a_tensor_that_is_missing(saved, load, part):
    lose_tensors(saved[0], part)
    with pytest.raises(StudyError, match=rf"(missing|lacks).*{part}"):
        load(saved[0])


def test_a_tensor_of_another_shape(saved):
    path = saved[0] / SETTINGS
    settings = json.loads(path.read_text())
    settings["c_abstractor"]["hidden_size"] = 24
    path.write_text(json.dumps(settings))
    for load in (load_vision_model, as_a_study_loads):
        with pytest.raises(StudyError, match=r"another shape.*multi_modal_projector"):
            load(saved[0])


@pytest.mark.parametrize("components", [{"rope2d": True}, {"pyramid": {}}])
def test_lost_settings_are_told_by_the_tensors(tiny, tmp_path, components):
    """Without them transformers would load the rest, and compute something else, with no more than a warning."""
    tiny(components).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / SETTINGS).unlink()
    with pytest.raises(StudyError, match=r"without components\.json"):
        as_a_study_loads(tmp_path / "model")


def test_a_folder_without_components(tiny, see, tmp_path):
    tiny().save_pretrained(tmp_path / "stock")
    assert torch.equal(see(as_a_study_loads(tmp_path / "stock")), see(tiny()))
    with pytest.raises(StudyError, match=r"holds no components\.json; AutoModelForImageTextToText"):
        load_vision_model(tmp_path / "stock")


@pytest.mark.parametrize("text", ['{"rope3d": {}}', '{"c_abstractor": {"num_queries": 10}}'])
def test_settings_that_describe_nothing(saved, text):
    (saved[0] / SETTINGS).write_text(text)
    with pytest.raises(StudyError, match=r"components\.json.*does not describe components"):
        load_vision_model(saved[0])


def test_settings_are_part_of_what_tells_models_apart(tiny, tmp_path):
    before, folder = {}, tmp_path / "model"
    for theta in (100.0, 200.0):  # no tensor tells these apart
        tiny({"rope2d": {"theta": theta, "gate": "none"}}).save_pretrained(folder)
        before[theta] = folder_identity(folder)
    assert before[100.0] != before[200.0]
    (folder / SETTINGS).unlink()
    assert folder_identity(folder) not in before.values()


@pytest.mark.parametrize("of_stage", [False, True])
def test_hollow_it_has_its_components_and_no_numbers(saved, everything, lab, of_stage):
    """As when memory is counted; a stage may name the components that stand there."""
    folder, model = saved
    settings = {"components": everything} if of_stage else {}
    hollow = hollow_start(*lab.job("first", model={"model_name_or_path": str(folder)}, settings=settings)).model
    assert {name: tensor.shape for name, tensor in hollow.named_parameters()} == {
        name: tensor.shape for name, tensor in model.named_parameters()
    }
    assert {tensor.device.type for tensor in hollow.parameters()} == {"meta"}

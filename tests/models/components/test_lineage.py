"""Components along the stages of a study: added once, kept by what follows, below adapters and after merging."""

import json

import pytest
import torch

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.models.decoder import base_model_of
from tunestudy.models.results import load_merged, load_result
from tunestudy.models.roles import set_trainable
from tunestudy.models.start import load_start

LORA = {"type": "lora", "lora_r": 2, "lora_alpha": 4, "target": "language_model"}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def first(lab, internvl, everything, disturb):
    """A published stage that added all components and trained everything."""
    settings = {"components": everything}
    job, folder = lab.job("first", model=internvl, settings=settings)
    loaded = load_start(job, folder, "cpu")
    set_trainable(loaded.model, "all")
    disturb(loaded.model)
    lab.publish(folder, loaded)
    return job, folder, loaded.model


def follow(lab, internvl, first, stage="next", **settings):
    return lab.job(stage, parents=(first[0].id,), model=internvl, settings={"init": "continue", **settings})


def adapted(lab, job, folder, disturb, train=()):
    loaded = load_start(job, folder, "cpu")
    model = attach(loaded.model, LoraAdapter.model_validate(LORA), list(train), seed=1)
    disturb(model)
    lab.publish(folder, loaded, model)
    return model


def test_a_published_stage_has_them(first, see):
    close(see(load_result(first[1], "cpu").model), see(first[2]))
    assert (first[1].model / "components.json").is_file()


@pytest.mark.parametrize("named", [False, True])
def test_the_next_stage_keeps_them(lab, internvl, first, see, everything, named):
    settings = {"components": everything} if named else {}
    model = load_start(*follow(lab, internvl, first, **settings), "cpu").model
    close(see(model), see(first[2]))


def test_levels_by_default_are_those_that_stand_there(lab, internvl, first, everything):
    pyramid = {**everything["pyramid"], "levels": [1, 2, 3, 4]}
    load_start(*follow(lab, internvl, first, components={**everything, "pyramid": pyramid}), "cpu")


def test_others_are_refused(lab, internvl, first, everything):
    with pytest.raises(StudyError, match="other components already") as caught:
        load_start(*follow(lab, internvl, first, components={"rope2d": True}), "cpu")
    assert caught.value.place.key == "stages.next.components"


def test_base_starts_without_them(lab, internvl, first):
    model = load_start(*follow(lab, internvl, first, init="base"), "cpu").model
    assert getattr(model, "components", None) is None


def test_an_adapter_on_them(lab, internvl, first, see, disturb):
    job, folder = follow(lab, internvl, first, "adapt", adapter=LORA)
    model = adapted(lab, job, folder, disturb)
    close(see(load_result(folder, "cpu").model), see(model))
    merged = load_merged(folder, "cpu")
    close(see(merged), see(model))
    assert merged.components == first[2].components
    more = follow(lab, internvl, (job,), "more", adapter=LORA)
    close(see(load_start(*more, "cpu").model), see(model))


def test_an_adapter_and_new_components_in_one_stage(lab, internvl, everything, see, disturb):
    """The base with fresh components exists nowhere else, so it is kept for the adapter to name."""
    settings = {"components": everything, "adapter": LORA, "train": ["projector"]}
    job, folder = lab.job("adapt", model=internvl, settings=settings)
    model = adapted(lab, job, folder, disturb, ["projector"])
    kept = folder.model / json.loads((folder.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert (kept / "components.json").is_file()
    again = load_result(folder, "cpu")
    close(see(again.model), see(model))
    assert again.identity == load_start(job, folder, "cpu").identity
    merged = load_merged(folder, "cpu")
    close(see(merged), see(model))
    assert not (folder.model / "model.safetensors").exists()


def test_merged_and_continued_with_new_ones(lab, internvl, everything, see, disturb):
    job, folder = lab.job("adapt", model=internvl, settings={"adapter": LORA})
    plain = adapted(lab, job, folder, disturb)
    unchanging = {"rope2d": True, "pyramid": everything["pyramid"]}
    more = follow(lab, internvl, (job,), "more", init="merge_then_new", adapter=LORA, components=unchanging)
    loaded = load_start(*more, "cpu")
    close(see(loaded.model), see(plain))
    assert base_model_of(loaded.model).components.named == ("rope2d", "pyramid")
    model = adapted(lab, *more, disturb)
    close(see(load_result(more[1], "cpu").model), see(model))


@pytest.mark.parametrize("init", ["continue", "stack"])
def test_none_are_put_below_an_adapter_that_learnt_without(lab, internvl, disturb, init):
    job, folder = lab.job("adapt", model=internvl, settings={"adapter": LORA})
    adapted(lab, job, folder, disturb)
    more = follow(lab, internvl, (job,), "more", init=init, adapter=LORA, components={"rope2d": True})
    with pytest.raises(StudyError, match="cannot be added below an adapter") as caught:
        load_start(*more, "cpu")
    assert caught.value.place.key == "stages.more.components"


def test_fresh_ones_are_the_same_in_every_process(lab, internvl, everything, see):
    job, folder = lab.job("first", model=internvl, settings={"components": everything})
    first = load_start(job, folder, "cpu").model
    torch.rand(3)
    assert torch.equal(see(load_start(job, folder, "cpu").model), see(first))


def test_a_text_model_has_none(lab):
    job, folder = lab.job("first", settings={"components": {"rope2d": True}})
    with pytest.raises(StudyError, match="can be added to InternVL as transformers has it") as caught:
        load_start(job, folder, "cpu")
    assert caught.value.place.key == "stages.first.components"


def test_a_few_bit_base_with_new_components(lab, internvl, everything, see, disturb):
    pytest.importorskip("bitsandbytes")
    wide = {
        **internvl,
        "config": {
            **internvl["config"],
            "text_config": {**internvl["config"]["text_config"], "hidden_size": 64, "intermediate_size": 64},
        },
    }
    settings = {"components": everything, "adapter": LORA, "quantization": {"load_in_4bit": True}}
    job, folder = lab.job("adapt", model=wide, settings=settings)
    model = adapted(lab, job, folder, disturb)
    assert any(type(module).__name__ == "Linear4bit" for module in model.modules())
    torch.testing.assert_close(see(load_result(folder, "cpu").model), see(model), atol=1e-3, rtol=1e-3)

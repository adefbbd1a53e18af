"""Mixtures on disk: what is published is what was trained, and nothing else loads in its place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunestudy.adapters.attach import attach
from tunestudy.adapters.mole import install_mole
from tunestudy.config.adapter import LoraAdapter, MoleAdapter
from tunestudy.config.errors import StudyError
from tunestudy.models.mole import mole_of
from tunestudy.models.mole_files import load_mole, put_saved, save_mole
from tunestudy.models.overlay import lay_over
from tunestudy.models.results import load_merged, load_result
from tunestudy.models.start import load_start
from tunestudy.records.manifest import MANIFEST, seal

EXPERTS = {"en": {"stage": "english"}, "ko": {"stage": "korean"}, "none": None}
RANKS = {"en": 3, "ko": 2}
TARGETS = ["q_proj", "down_proj"]
LORA = {"type": "lora", "lora_r": 4, "lora_alpha": 8}


def settings(**options: Any) -> dict[str, Any]:
    return {"type": "mole", "experts": EXPERTS, "target_modules": TARGETS, "lora_r": 3, **options}


def with_mixture(model: Any, adapter: MoleAdapter, seed: int = 0) -> Any:
    """The model with experts and gates of random values; `ko` has nothing on the first layer's q_proj."""
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, Any] = {}
    for expert, rank in RANKS.items():
        for name, module in list(model.named_modules()):
            if name.endswith(tuple(TARGETS)) and (expert, name) != ("ko", "model.layers.0.self_attn.q_proj"):
                down = torch.randn(rank, module.in_features, generator=generator) * 0.3
                up = torch.randn(module.out_features, rank, generator=generator) * 0.3
                factors.setdefault(expert, {})[name] = (down, up)
    install_mole(model, adapter, factors)
    mole = mole_of(model)
    assert mole is not None
    with torch.no_grad():
        for gate in mole.gates.values():
            for parameter in gate.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return model


def mixture_job(lab, parent, **options: Any) -> Any:
    """A published mixture on `parent`, and the model that was published."""
    adapter = settings(**options)
    job, folder = lab.job("mix", parents=(parent[0].id,), settings={"init": "continue", "adapter": adapter})
    loaded = load_start(job, folder, "cpu")
    model = with_mixture(loaded.model, MoleAdapter.model_validate(adapter))
    lab.publish(folder, loaded, model)
    return job, folder, model


GATES = [
    {"gate": "token"},
    {"gate": "sequence"},
    {"gate": "token", "top_k": 1},
    {"gate": "token", "learn_temperature": True},
]


@pytest.mark.parametrize("options", GATES)
def test_a_result_is_the_trained_model(lab, parent, logits, options):
    _, folder, model = mixture_job(lab, parent, **options)
    assert json.loads((folder.model / MANIFEST).read_text())["kind"] == "mole"
    assert not (folder.model / "adapter_config.json").exists()
    assert not (folder.model / "model.safetensors").exists()
    loaded = load_result(folder, "cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    again, tokenizer = load_mole(folder.model)
    assert torch.equal(logits(again), logits(model))
    assert tokenizer("12").input_ids == loaded.tokenizer("12").input_ids


LAYER = [{}, {"top_k": 1}, {"top_k": 2}, {"learn_temperature": True}, {"temperature": 0.5}]


@pytest.mark.parametrize("options", LAYER)
def test_constant_gates_are_one_plain_lora(lab, parent, logits, options):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, folder, model = mixture_job(lab, parent, gate="layer", **options)
    assert json.loads((folder.model / MANIFEST).read_text())["kind"] == "adapter"
    stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parent[1].model), folder.model)
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=1e-5)
    plain = logits(AutoModelForCausalLM.from_pretrained(parent[1].model))
    if options != {"top_k": 1}:  # which may choose the expert that adds nothing
        assert not torch.allclose(plain, logits(model), atol=1e-3)
    torch.testing.assert_close(logits(load_result(folder, "cpu").model), logits(model), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load_merged(folder, "cpu")), logits(model), atol=1e-5, rtol=1e-5)
    raw, _ = load_mole(folder.model)
    assert torch.equal(logits(raw), logits(model))


def test_folded_ranks_are_those_of_the_experts_that_take_part(lab, parent):
    _, folder, _ = mixture_job(lab, parent, gate="layer")
    stored = load_file(folder.model / "adapter_model.safetensors")
    ranks = {name: len(tensor) for name, tensor in stored.items() if "lora_A" in name}
    first = ranks.pop("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    assert first == 3 and set(ranks.values()) == {5}


@pytest.mark.parametrize("gate", ["token", "layer"])
def test_a_mixture_is_trained_on(lab, parent, logits, disturb, gate):
    job, _, model = mixture_job(lab, parent, gate=gate)
    more = settings(gate=gate, lora_dropout=0.2, balance="mole")
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": more})
    loaded = load_start(*child, "cpu")
    trainable = {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}
    mole = mole_of(loaded.model)
    assert mole is not None and loaded.continues_adapter and mole.settings.balance == "mole"
    assert trainable == {name for name, _ in mole.parameters()}
    assert torch.equal(logits(loaded.model), logits(model))
    before = logits(model)
    disturb(loaded.model)
    lab.publish(child[1], loaded, loaded.model)
    now = logits(load_result(child[1], "cpu").model)
    torch.testing.assert_close(now, logits(loaded.model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(now, before, atol=1e-3)


def test_gates_alone_go_on(lab, parent):
    job, _, _ = mixture_job(lab, parent)
    adapter = settings(train_experts=False)
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": adapter})
    model = load_start(*child, "cpu").model
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable and all(".lora_router." in name for name in trainable)


def test_another_mixture_does_not_go_on(lab, parent):
    job, _, _ = mixture_job(lab, parent)
    for number, other in enumerate(
        (settings(top_k=1), settings(gate="sequence"), settings(learn_temperature=True), LORA)
    ):
        init = {"init": "continue", "adapter": other}
        child = lab.job(f"more{number}", parents=(parent[0].id, job.id), settings=init)
        with pytest.raises(StudyError, match="whose options differ"):
            load_start(*child, "cpu")


@pytest.mark.parametrize("init", ["merge_then_new", "stack"])
def test_gates_that_read_tokens_cannot_be_folded(lab, parent, init):
    job, _, _ = mixture_job(lab, parent)
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": init, "adapter": LORA})
    with pytest.raises(StudyError, match=r"gates read the tokens.*gate: layer"):
        load_start(*child, "cpu")


def test_a_merged_form_is_refused_before_training(lab):
    for gate, can in (("token", False), ("layer", True)):
        start = lab.job(f"mix-{gate}", settings={"adapter": settings(gate=gate), "save_merged": True})
        if can:
            assert load_start(*start, "cpu").model is not None
        else:
            with pytest.raises(StudyError, match=r"save_merged.*cannot be folded"):
                load_start(*start, "cpu")


def test_a_new_adapter_on_a_folded_mixture(lab, parent, logits):
    job, _, model = mixture_job(lab, parent, gate="layer")
    init = {"init": "merge_then_new", "adapter": LORA}
    loaded = load_start(*lab.job("more", parents=(parent[0].id, job.id), settings=init), "cpu")
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-5, rtol=1e-5)
    assert mole_of(attach(loaded.model, LoraAdapter.model_validate(LORA))) is None


def test_random_weights_are_kept_as_a_base(lab, logits):
    adapter = settings()
    job, folder = lab.job("mix", settings={"adapter": adapter})
    loaded = load_start(job, folder, "cpu")
    model = with_mixture(loaded.model, MoleAdapter.model_validate(adapter))
    lab.publish(folder, loaded, model)
    named = json.loads((folder.model / "mole_config.json").read_text())["base_model_name_or_path"]
    assert named.startswith("../../../cache/models/random-")
    assert torch.equal(logits(load_mole(folder.model)[0]), logits(model))


def test_results_can_be_moved(lab, parent, logits, tmp_path):
    _, folder, model = mixture_job(lab, parent)
    moved = tmp_path / "elsewhere"
    (tmp_path / "results").rename(moved)
    place = moved / folder.model.relative_to(tmp_path / "results")
    assert torch.equal(logits(load_mole(place)[0]), logits(model))


def reseal(folder: Path) -> None:
    facts = json.loads((folder / MANIFEST).read_text())
    facts.pop("files")
    (folder / MANIFEST).unlink()
    prepared = folder.with_name("prepared")
    folder.rename(prepared)
    seal(prepared, folder, facts)


def without_one(tensors: Any) -> Any:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("q_proj.lora_A")}


def with_nan(tensors: Any) -> Any:
    return {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}


def with_more(tensors: Any) -> Any:
    return {**tensors, "model.layers.7.lora_router.weight": torch.ones(3, 32)}


DAMAGES = [(without_one, "lacks .*q_proj.lora_A"), (with_nan, "not finite"), (with_more, "holds an unknown .*layers.7")]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_tensors_that_are_wrong_are_told(lab, parent, damage, message):
    _, folder, _ = mixture_job(lab, parent)
    file = folder.model / "mole.safetensors"
    save_file(damage(load_file(file)), file)
    with pytest.raises(StudyError, match=r"does not match its SHA-256|bytes, the manifest says"):
        load_mole(folder.model)
    reseal(folder.model)
    for load in (lambda: load_mole(folder.model), lambda: load_result(folder, "cpu")):
        with pytest.raises(StudyError, match=message):
            load()


def test_a_foreign_base_is_told(lab, parent):
    _, folder, _ = mixture_job(lab, parent)
    file = parent[1].model / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 2}, file, metadata={"format": "pt"})
    reseal(parent[1].model)
    with pytest.raises(StudyError, match="not the model it was trained on"):
        load_mole(folder.model)
    with pytest.raises(StudyError, match="not the model it was trained on"):
        load_result(folder, "cpu")


def test_a_base_that_is_gone_is_told(lab, parent):
    _, folder, _ = mixture_job(lab, parent)
    parent[1].model.rename(parent[1].root / "away")
    with pytest.raises(StudyError, match="as its base, and that folder is gone"):
        load_mole(folder.model)


def test_laid_over_a_model_to_evaluate_it(lab, parent, logits):
    _, folder, model = mixture_job(lab, parent)
    base = load_result(parent[1], "cpu").model
    assert torch.equal(logits(lay_over(base, folder.model)), logits(model))
    other = lab.job("flat", model={**lab.job("x")[0].model.model_dump(), "config": {"hidden_size": 16}})
    with pytest.raises(StudyError):
        lay_over(load_start(*other, "cpu").model, folder.model)


def test_whole_tensors_in_place_of_slices(lab, parent, tmp_path):
    _, _, model = mixture_job(lab, parent)
    mole = mole_of(model)
    assert mole is not None
    name = next(iter(mole.layers)) + ".lora_A"
    given = torch.full_like(dict(mole.parameters())[name], 7.0)
    (tmp_path / "out").mkdir()
    assert save_mole(model, tmp_path / "out", {name: given}) == "mole"
    stored = load_file(tmp_path / "out" / "mole.safetensors")
    assert torch.equal(stored[name], given) and len(stored) == len(dict(mole.parameters()))
    fresh = load_result(parent[1], "cpu").model
    put_saved(fresh, tmp_path / "out", trainable=False)
    assert torch.equal(dict(fresh.named_parameters())[name], given)

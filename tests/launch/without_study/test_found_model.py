"""What `eval --model` finds at a path is the model that lies there, to the last digit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyjob import ADAPTER, make_job, run, tiny_model
from tinymole import mole_job

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.config.model import ModelConfig
from tunestudy.launch.without_study.found_model import FoundModel, find_model
from tunestudy.models.results import load_result
from tunestudy.records.layout import JobDir, StudyDir

IDS = torch.tensor([[3, 4, 5, 6, 7]])
KEPT = {"save_total_limit": 9, "drop_intermediate": False, "save_on_epoch_end": False, "learning_rate": 0.02}


def trained(root: Path, name: str, **settings: Any) -> JobDir:
    folder = make_job(root, name, **{**KEPT, "lr_scheduler_type": "constant", "max_steps": 6, **settings})
    assert run(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def loaded(found: FoundModel, root: Path) -> torch.Tensor:
    """As an evaluation's worker loads it, from a job of another study."""
    folder = StudyDir(root / "elsewhere" / "eval").job("base_model-0")
    model = ModelConfig.model_validate(found.relative_to(folder.study.root))
    facts = {"id": "base_model-0", "stage": "base_model", "fingerprint": "0" * 64, "variants": ("v",)}
    job = Job(**facts, seed=found.seed, model=model, settings=None, base_dir="../..")
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.job_json.write_text(job.model_dump_json())
    return logits(load_result(folder, "cpu").model)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"adapter": ADAPTER},
        {"adapter": {**ADAPTER, "type": "dora"}},
        {"adapter": {**ADAPTER, "type": "sora", "sparse_lambda": 5e-3}},
    ],
    ids=["full", "lora", "dora", "sora"],
)
def test_a_result_and_its_job_folder(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = trained(tmp_path, "adapt", **settings)
    expected = logits(load_result(folder, "cpu").model)
    found = find_model(str(folder.model))
    assert found.label == folder.root.name
    torch.testing.assert_close(loaded(found, tmp_path), expected, rtol=1e-5, atol=1e-6)
    assert find_model(str(folder.root)) == found


@pytest.mark.parametrize("settings", [{}, {"adapter": ADAPTER}], ids=["full", "lora"])
def test_a_checkpoint(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Which is the model of a training that ended there."""
    folder = trained(tmp_path, "long", seed=3, **settings)
    short = trained(tmp_path, "short", seed=3, **{**settings, "max_steps": 3})
    found = find_model(str(folder.root / "checkpoint-3"))
    assert found.label == f"{folder.root.name}-checkpoint-3"
    torch.testing.assert_close(loaded(found, tmp_path), logits(load_result(short, "cpu").model), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_a_second_stage(tmp_path: Path) -> None:
    """Of which only the head was trained: the rest is the first stage's result."""
    untied = tiny_model(tie_word_embeddings=False)
    first = trained(tmp_path, "first", model=untied)
    second = trained(tmp_path, "second", model=untied, after=first, init="continue", train=["lm_head"])
    found = find_model(str(second.root / "checkpoint-6"))
    assert found.settings["model_name_or_path"] == str(first.model)
    torch.testing.assert_close(loaded(found, tmp_path), logits(load_result(second, "cpu").model))


def test_an_adapter_of_peft_alone(tmp_path: Path) -> None:
    """Without a tokenizer, and with the base's path absolute."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = trained(tmp_path, "base").model
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    torch.nn.init.normal_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight)
    model.save_pretrained(tmp_path / "peft")
    found = find_model(str(tmp_path / "peft"))
    assert found.settings == {"model_name_or_path": str(base), "weights": str(tmp_path / "peft")}
    torch.testing.assert_close(loaded(found, tmp_path), logits(model))


def test_damage_is_told(tmp_path: Path) -> None:
    folder = trained(tmp_path, "adapt", adapter=ADAPTER)
    found = find_model(str(folder.root / "checkpoint-3"))
    file = folder.root / "checkpoint-3" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(StudyError, match=r"checkpoint-3: .*does not match its SHA-256"):
        loaded(found, tmp_path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "adapter_config.json").write_text("{}"), "names no base model"),
        (
            lambda f: (f / "adapter_config.json").write_text('{"base_model_name_or_path": "../gone"}'),
            "names ../gone as its base, and that folder is not there",
        ),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "adapter_config.json").unlink(), "holds neither config.json (a model) nor adapter_config.json"),
    ],
)
def test_what_cannot_be_evaluated_is_told(tmp_path: Path, spoil: Any, told: str) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "o/base"}')
    assert find_model(str(tmp_path / "adapter")).settings["model_name_or_path"] == "o/base"
    spoil(tmp_path / "adapter")
    with pytest.raises(StudyError) as caught:
        find_model(str(tmp_path / "adapter"))
    assert told in str(caught.value)


def test_gates_in_their_raw_form_and_stages_on_adapters_are_told(tmp_path: Path) -> None:
    before = trained(tmp_path, "before", adapter={**ADAPTER, "type": "sora", "sparse_lambda": 5e-3})
    with pytest.raises(StudyError, match="raw form of an adapter with gates"):
        find_model(str(before.root / "checkpoint-3"))
    shutil.rmtree(before.model / "gated")
    assert find_model(str(before.model)).settings["weights"] == str(before.model)


@pytest.mark.parametrize("gate", ["token", "sequence", "layer"])
def test_a_mixture_and_its_checkpoint(tmp_path: Path, gate: str) -> None:
    base = trained(tmp_path, "base")
    folder = mole_job(tmp_path, adapter={"gate": gate}, after=base, **{**KEPT, "max_steps": 6})
    assert run(folder)
    found = find_model(str(folder.model))
    assert found == find_model(str(folder.root)) and found.settings["model_name_or_path"] == str(base.model)
    torch.testing.assert_close(loaded(found, tmp_path), logits(load_result(folder, "cpu").model), rtol=1e-5, atol=1e-5)
    at_checkpoint = find_model(str(folder.root / "checkpoint-6"))
    torch.testing.assert_close(loaded(at_checkpoint, tmp_path), loaded(found, tmp_path), rtol=1e-5, atol=1e-5)
    shutil.rmtree(base.model)
    shutil.copytree(trained(tmp_path, "other", seed=9).model, base.model)
    with pytest.raises(StudyError, match="is not the model that this mixture was trained on"):
        loaded(at_checkpoint, tmp_path)


def test_a_checkpoint_of_gates_alone_is_told(tmp_path: Path) -> None:
    folder = mole_job(tmp_path, adapter={"train_experts": False}, **KEPT, max_steps=3)
    assert run(folder)
    assert find_model(str(folder.model)).settings["weights"] == str(folder.model)
    with pytest.raises(StudyError, match="holds gates alone, whose experts did not learn"):
        find_model(str(folder.root / "checkpoint-3"))


def test_a_hub_id() -> None:
    assert find_model("OpenGVLab/InternVL2_5-8B") == FoundModel(
        {"model_name_or_path": "OpenGVLab/InternVL2_5-8B"}, "InternVL2_5-8B"
    )


def test_a_home_of_nobody_is_told_in_a_line() -> None:
    with pytest.raises(StudyError, match="~nobody-of-that-name/model"):
        find_model("~nobody-of-that-name/model")

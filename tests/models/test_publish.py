"""Published results load with the stock classes alone and give the same outputs."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.models.publish import keep_base
from tunestudy.models.start import load_start
from tunestudy.records.layout import StudyDir

LORA = {"type": "lora", "lora_r": 4, "lora_alpha": 8}


def published_adapter(lab, disturb, *, parents=(), seed=1):
    job, folder = lab.job("adapt", parents=parents, seed=seed, settings={"adapter": LORA})
    loaded = load_start(job, folder, "cpu")
    model = attach(loaded.model, LoraAdapter.model_validate(LORA), seed=1)
    disturb(model)
    lab.publish(folder, loaded, model)
    return folder, model


def test_a_full_model_loads_stock(lab, parent, logits):
    stock = AutoModelForCausalLM.from_pretrained(parent[1].model)
    assert stock.get_output_embeddings().weight is stock.get_input_embeddings().weight  # tied, stored once
    job, folder = lab.job("next", parents=(parent[0].id,))
    assert torch.equal(logits(stock), logits(load_start(job, folder, "cpu").model))


def test_the_tokenizer_loads_stock(parent):
    tokenizer = AutoTokenizer.from_pretrained(parent[1].model)
    assert tokenizer.decode(tokenizer("01\n=a").input_ids) == "01\n=a"


@pytest.mark.parametrize("on_parent", [True, False])
def test_an_adapter_loads_stock_on_the_base_it_names(lab, parent, disturb, logits, on_parent):
    folder, model = published_adapter(lab, disturb, parents=(parent[0].id,) if on_parent else ())
    named = json.loads((folder.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named.startswith("..")  # relative: the results folder can be moved
    base = AutoModelForCausalLM.from_pretrained((folder.model / named).resolve())
    assert torch.equal(logits(PeftModel.from_pretrained(base, folder.model)), logits(model))


def test_an_adapter_loads_by_itself_from_its_own_folder(lab, parent, disturb, logits, monkeypatch):
    folder, model = published_adapter(lab, disturb, parents=(parent[0].id,))
    monkeypatch.chdir(folder.model)
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(".")), logits(model))


def test_a_moved_results_folder_still_works(lab, parent, disturb, logits, tmp_path):
    from tunestudy.models.results import load_result
    from tunestudy.records.layout import JobDir

    folder, model = published_adapter(lab, disturb, parents=(parent[0].id,))
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    moved = JobDir(tmp_path / "elsewhere" / folder.root.relative_to(tmp_path / "results"))
    assert torch.equal(logits(load_result(moved, "cpu").model), logits(model))


def test_no_absolute_path_is_published(lab, parent, disturb, tmp_path):
    published_adapter(lab, disturb, parents=(parent[0].id,))
    lone, _ = published_adapter(lab, disturb, seed=2)
    files = [path for path in (tmp_path / "results").rglob("*") if path.is_file() and "leases" not in path.parts]
    assert any("cache" in path.parts for path in files) and lone.model.is_dir()
    for path in files:
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_a_base_is_kept_by_whichever_rank_comes_first(lab, parent, monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.distributed.mixin._is_torch_distributed_initialized", lambda: True)
    monkeypatch.setattr("transformers.distributed.mixin._get_torch_distributed_rank", lambda: 1)
    loaded = load_start(*lab.job("next", parents=(parent[0].id,)), "cpu")
    kept = keep_base(loaded.model, loaded.tokenizer, StudyDir(tmp_path / "study"), "some-base")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in kept.iterdir()}
    AutoModelForCausalLM.from_pretrained(kept)

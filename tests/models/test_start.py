"""Lineage: what a stage starts from, and the refusal of everything that is not whole."""

import json
import sys
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunestudy.adapters.attach import attach, go_on
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.merge import MergeStage
from tunestudy.models.hollow import hollow_start
from tunestudy.models.origin import check_model_folder
from tunestudy.models.overlay import lay_over
from tunestudy.models.results import load_result, load_whole
from tunestudy.models.start import load_start
from tunestudy.records.atomic import write_json
from tunestudy.records.manifest import MANIFEST

LORA = {"type": "lora", "lora_r": 4, "lora_alpha": 8}


def adapter_job(lab, parent, disturb, *, stage="adapt", seed=1, **settings):
    """A published adapter on `parent`, and the model that was published."""
    job, folder = lab.job(stage, parents=(parent[0].id,), seed=seed, settings={"adapter": LORA, **settings})
    loaded = load_start(job, folder, "cpu")
    model = attach(loaded.model, LoraAdapter.model_validate(LORA), seed=1)
    disturb(model)
    lab.publish(folder, loaded, model)
    return job, folder, model


def test_random_weights_depend_on_the_seed_alone(lab, logits):
    first = load_start(*lab.job("a", seed=1), "cpu").model
    torch.rand(7)  # whatever ran before
    again = load_start(*lab.job("b", seed=1), "cpu").model
    other = load_start(*lab.job("c", seed=2), "cpu").model
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_random_weights_may_be_those_of_one_seed_for_all(lab, logits):
    model = {**lab.job("a")[0].model.model_dump(exclude_unset=True), "weights_seed": 1}
    first, other = (load_start(*lab.job(str(seed), seed=seed, model=model), "cpu") for seed in (2, 3))
    assert torch.equal(logits(first.model), logits(other.model))
    assert torch.equal(logits(first.model), logits(load_start(*lab.job("c", seed=1), "cpu").model))
    assert first.identity == other.identity


def test_random_weights_leave_the_global_generator_alone(lab):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load_start(*lab.job("a"), "cpu")
    assert torch.equal(torch.rand(1), expected)


def test_continue_from_full_weights(lab, parent, logits):
    child = lab.job("next", parents=(parent[0].id,), settings={"init": "continue"})
    assert torch.equal(logits(load_start(*child, "cpu").model), logits(load_result(parent[1], "cpu").model))


def test_base_ignores_the_parent(lab, parent, logits):
    child = lab.job("next", parents=(parent[0].id,), settings={"init": "base"})
    untouched = lab.job("fresh")
    assert torch.equal(logits(load_start(*child, "cpu").model), logits(load_start(*untouched, "cpu").model))


def test_adapter_result_equals_the_trained_model(lab, parent, disturb, logits):
    _, folder, model = adapter_job(lab, parent, disturb)
    assert torch.equal(logits(load_result(folder, "cpu").model), logits(model))


def test_continue_trains_the_same_adapter(lab, parent, disturb, logits):
    job, _, model = adapter_job(lab, parent, disturb)
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": LORA})
    loaded = load_start(*child, "cpu")
    trainable = [name for name, p in loaded.model.named_parameters() if p.requires_grad]
    assert loaded.continues_adapter
    assert trainable and all(".lora_" in name for name in trainable)
    assert torch.equal(logits(loaded.model), logits(model))


def test_continue_with_another_adapter_is_refused(lab, parent, disturb):
    job, _, _ = adapter_job(lab, parent, disturb)
    other = {**LORA, "lora_r": 8}
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": other})
    with pytest.raises(StudyError, match=r"lora_r.*4.*8"):
        load_start(*child, "cpu")


def test_continue_may_drop_out_more(lab, parent, disturb):
    job, _, _ = adapter_job(lab, parent, disturb)
    more = {**LORA, "lora_dropout": 0.3}
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": more})
    model = go_on(load_start(*child, "cpu").model, child[0].settings.adapter)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


@pytest.mark.parametrize("init", ["merge_then_new", "stack"])
def test_a_new_adapter_on_an_adapter(lab, parent, disturb, logits, init):
    job, _, below = adapter_job(lab, parent, disturb)
    child, folder = lab.job("more", parents=(parent[0].id, job.id), settings={"init": init, "adapter": LORA})
    loaded = load_start(child, folder, "cpu")
    torch.testing.assert_close(logits(loaded.model), logits(below), atol=1e-5, rtol=1e-5)
    model = attach(loaded.model, LoraAdapter.model_validate(LORA), seed=5)
    torch.testing.assert_close(logits(model), logits(below), atol=1e-5, rtol=1e-5)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n and ".default." in n)
    disturb(model, seed=2)
    lab.publish(folder, loaded, model)
    named = json.loads((folder.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == f"../../../cache/models/merged-{job.id}"
    torch.testing.assert_close(logits(load_result(folder, "cpu").model), logits(model), atol=1e-5, rtol=1e-5)


def adapter_and_head(lab, disturb):
    """A published adapter with `lm_head` trained in full beside it, its model, and the settings of both."""
    model = lab.job("x")[0].model.model_dump()
    options = {
        "model": {**model, "config": {**model["config"], "tie_word_embeddings": False}},
        "settings": {"adapter": LORA, "train": ["lm_head"]},
    }
    job, folder = lab.job("adapt", **options)
    loaded = load_start(job, folder, "cpu")
    trained = attach(loaded.model, LoraAdapter.model_validate(LORA), ["lm_head"], seed=1)
    disturb(trained)
    lab.publish(folder, loaded, trained)
    return job, folder, trained, options


@pytest.mark.parametrize("init", ["continue", "merge_then_new"])
def test_a_role_trained_beside_the_adapter_goes_on(lab, disturb, logits, init):
    job, folder, trained, options = adapter_and_head(lab, disturb)
    torch.testing.assert_close(logits(load_result(folder, "cpu").model), logits(trained))
    settings = {**options["settings"], "init": init}
    start = load_start(*lab.job("more", parents=(job.id,), model=options["model"], settings=settings), "cpu").model
    torch.testing.assert_close(logits(start), logits(trained), atol=1e-5, rtol=1e-5)
    if init == "continue":
        assert any("lm_head" in name and p.requires_grad for name, p in start.named_parameters())


def test_stack_on_a_role_trained_beside_an_adapter_is_refused(lab, disturb):
    job, _, _, options = adapter_and_head(lab, disturb)
    settings = {**options["settings"], "init": "stack"}
    child = lab.job("more", parents=(job.id,), model=options["model"], settings=settings)
    with pytest.raises(StudyError, match="stack cannot freeze the roles"):
        load_start(*child, "cpu")


def test_an_adapter_parent_needs_an_init(lab, parent, disturb):
    job, _, _ = adapter_job(lab, parent, disturb)
    child = lab.job("more", parents=(job.id,), settings={"adapter": LORA})
    with pytest.raises(StudyError, match="merge_then_new"):
        load_start(*child, "cpu")


def test_full_training_after_an_adapter_starts_merged(lab, parent, disturb, logits):
    job, _, below = adapter_job(lab, parent, disturb)
    child = lab.job("more", parents=(job.id,), settings={"init": "merge_then_new"})
    model = load_start(*child, "cpu").model
    assert not any(".lora_" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(logits(model), logits(below), atol=1e-5, rtol=1e-5)


def test_a_job_that_only_evaluates_has_the_studys_model(lab, logits):
    job, folder = lab.job("base_model", settings=None)
    assert torch.equal(logits(load_result(folder, "cpu").model), logits(load_start(job, folder, "cpu").model))


def test_the_chat_template_travels_with_the_result(lab):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    job, folder = lab.job("base", model={**lab.job("x")[0].model.model_dump(), "chat_template": template})
    lab.publish(folder, load_start(job, folder, "cpu"))
    assert load_result(folder, "cpu").tokenizer.chat_template == template


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def test_a_flipped_bit_in_a_parent_is_told(lab, parent):
    flip_a_bit(parent[1].model / "model.safetensors")
    child = lab.job("next", parents=(parent[0].id,))
    with pytest.raises(StudyError, match=r"model\.safetensors does not match") as error:
        load_start(*child, "cpu")
    assert parent[0].id in str(error.value)


def reseal(folder):
    """A manifest that believes whatever the files hold now."""
    from tunestudy.records.hashes import sha256

    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"size": path.stat().st_size, "sha256": sha256(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_a_missing_tensor_is_told(lab, parent, disturb, kind):
    folder = parent[1] if kind == "full" else adapter_job(lab, parent, disturb)[1]
    file = folder.model / ("model.safetensors" if kind == "full" else "adapter_model.safetensors")
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "k_proj" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    reseal(folder.model)
    with pytest.raises(StudyError, match=r"lacks 1 tensors.*k_proj"):
        load_result(folder, "cpu")


def test_no_tensor_at_all_is_told(lab, parent, disturb):
    folder = adapter_job(lab, parent, disturb)[1]
    save_file({}, folder.model / "adapter_model.safetensors")
    reseal(folder.model)
    with pytest.raises(StudyError, match="lacks"):
        load_result(folder, "cpu")


def test_a_foreign_base_is_told(lab, parent, disturb):
    _, folder, _ = adapter_job(lab, parent, disturb)
    file = parent[1].model / "model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    reseal(parent[1].model)
    with pytest.raises(StudyError, match="not the model it was trained on"):
        load_result(folder, "cpu")


def test_a_base_that_is_gone_is_told(lab, parent, disturb):
    _, folder, _ = adapter_job(lab, parent, disturb)
    parent[1].model.rename(parent[1].root / "away")
    with pytest.raises(StudyError, match=r"that folder is gone; delete"):
        load_result(folder, "cpu")


def test_an_absolute_base_that_is_gone_is_no_name_of_the_hub(lab, parent, disturb):
    _, folder, _ = adapter_job(lab, parent, disturb)
    config = folder.model / "adapter_config.json"
    facts = {**json.loads(config.read_text()), "base_model_name_or_path": "/nowhere/base"}
    config.write_text(json.dumps(facts))
    reseal(folder.model)
    with pytest.raises(StudyError, match=r"names /nowhere/base as its base, and that folder is gone; delete"):
        load_result(folder, "cpu")


def test_a_folder_that_is_no_model(tmp_path, lab):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("x")
    model = {"model_name_or_path": "./notes", "tokenizer": {"type": "characters", "alphabet": "01"}}
    with pytest.raises(StudyError, match=r"no config\.json, it holds todo\.txt"):
        load_start(*lab.job("a", model=model), "cpu")


def test_a_path_that_does_not_exist(lab):
    model = {"model_name_or_path": "./nowhere", "tokenizer": {"type": "characters", "alphabet": "01"}}
    with pytest.raises(StudyError, match=r"there is no folder \./nowhere"):
        load_start(*lab.job("a", model=model), "cpu")


def test_an_adapter_in_place_of_a_model_is_told_where_it_goes(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"no config.json.* an adapter goes into model\.weights"):
        check_model_folder(tmp_path)


def test_missing_shards_and_pickles_are_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("x")
    with pytest.raises(StudyError, match=r"lacks model\.safetensors; convert"):
        check_model_folder(tmp_path)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StudyError, match=r"lacks model-1\.safetensors, model-2\.safetensors"):
        check_model_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[1]")
    with pytest.raises(StudyError, match="does not say which file holds what"):
        check_model_folder(tmp_path)


@pytest.mark.parametrize("wrong", [{"hidden_size": "wide"}, {"num_attention_heads": 0}])
def test_a_folder_whose_configuration_makes_no_model_is_told_plainly(lab, parent, wrong):
    file = parent[1].model / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    model = {"model_name_or_path": str(parent[1].model)}
    with pytest.raises(StudyError, match=r"model\.\w+: .* can(not)? be loaded: "):
        load_start(*lab.job("again", model=model), "cpu")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_of_another_shape_is_told_plainly(lab, parent, file):
    (parent[1].model / file).write_text("[]")
    with pytest.raises(StudyError, match=r"model\.tokenizer: .*holds no tokenizer that can be loaded"):
        load_start(*lab.job("again", model={"model_name_or_path": str(parent[1].model)}), "cpu")


@pytest.mark.parametrize("wrong", [{"peft_type": "NEWEST"}, {"r": "many"}])
def test_weights_of_an_adapter_that_peft_does_not_know_are_told_plainly(lab, parent, disturb, wrong):
    _, folder, _ = adapter_job(lab, parent, disturb)
    file = folder.model / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    (folder.model / MANIFEST).unlink()
    base = load_start(*lab.job("x"), "cpu").model
    with pytest.raises(StudyError, match=r"model\.weights: .*adapter_config\.json is not what PEFT writes"):
        lay_over(base, folder.model)


def test_a_local_folder_of_ours_loads_as_the_studys_model(lab, parent, logits):
    path = parent[1].model.relative_to(lab.root)
    model = {"model_name_or_path": str(path)}
    loaded = load_start(*lab.job("a", model=model), "cpu")
    assert torch.equal(logits(loaded.model), logits(load_result(parent[1], "cpu").model))
    assert loaded.identity["kind"] == "folder"


def test_unknown_architecture_names_the_nearest(lab):
    model = {**lab.job("x")[0].model.model_dump(), "architecture": "qwen33"}
    with pytest.raises(StudyError, match=r"nearest: .*qwen3"):
        load_start(*lab.job("a", model=model), "cpu")


def test_a_misspelt_key_of_the_configuration_is_not_kept_in_silence(lab):
    before = lab.job("x")[0].model.model_dump()
    model = {**before, "config": {**before["config"], "hiden_size": 8}}
    with pytest.raises(StudyError, match=r"qwen3 has no such option; did you mean hidden_size\?") as caught:
        load_start(*lab.job("a", model=model), "cpu")
    assert caught.value.place.key == "model.config.hiden_size"


def test_a_vocabulary_too_small_for_the_tokenizer(lab):
    given = lab.job("x")[0].model.model_dump()
    model = {**given, "config": {**given["config"], "vocab_size": 5}}
    with pytest.raises(StudyError, match="5 is less than"):
        load_start(*lab.job("a", model=model), "cpu")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        ({"num_attention_heads": 0}, "by zero"),
        ({"hidden_act": "swich"}, "there is no 'swich'"),
        ({"validate_layer_type": 1}, "has no such option"),
    ],
)
def test_settings_that_make_no_model_are_told_plainly(lab, wrong, told):
    given = lab.job("x")[0].model.model_dump()
    model = {**given, "config": {**given["config"], **wrong}}
    with pytest.raises(StudyError, match=rf"model\.config.*{told}"):
        load_start(*lab.job("a", model=model), "cpu")


def test_a_configuration_whose_own_attributes_fail_is_looked_through(lab):
    """GPT-2 has no rotary embedding, and transformers 5 lets its `rope_scaling` raise."""
    given = lab.job("x")[0].model.model_dump()
    model = {**given, "architecture": "gpt2", "config": {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}}
    assert load_start(*lab.job("a", model=model), "cpu").model.config.n_embd == 8


REMOTE = """from transformers import Qwen3Config, Qwen3ForCausalLM
class OwnConfig(Qwen3Config):
    model_type = "own_of_a_folder"
class OwnModel(Qwen3ForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_models_own_is_trusted_to_count_its_memory_too(lab, parent, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = parent[1].model
    (folder / "own.py").write_text(REMOTE)
    told = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**told, "model_type": "own_of_a_folder", "auto_map": auto_map}))
    model = {"model_name_or_path": str(folder), "trust_remote_code": True}
    assert type(hollow_start(*lab.job("own", model=model)).model).__name__ == "OwnModel"


def test_half_precision_is_kept_for_frozen_weights(lab):
    model = {**lab.job("x")[0].model.model_dump(), "dtype": "bfloat16"}
    loaded = load_start(*lab.job("a", model=model), "cpu")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def merged_job(lab, parent, disturb, kind, **options):
    """A job that merged, its result put there by hand: a whole model, or one adapter on `parent`'s."""
    merge = {"type": "merge", "method": "linear", "models": {"a": {"stage": "base"}, "b": {"stage": "base"}}}
    merge |= {"into": "adapter" if kind == "adapter" else "model", **options}
    job, folder = lab.job("base", seed=2)
    job = job.model_copy(
        update={
            "id": "merged-000000000002",
            "stage": "merged",
            "inputs": {"a": parent[0].id, "b": parent[0].id},
            "settings": MergeStage.model_validate(merge),
        }
    )
    folder = folder.study.job(job.id)
    folder.root.mkdir()
    write_json(folder.job_json, {**job.model_dump(mode="json"), "settings": merge})
    loaded = load_result(parent[1], "cpu")
    model = loaded.model
    if kind == "adapter":
        model = attach(model, LoraAdapter.model_validate(LORA), seed=1)
    disturb(model, seed=5)
    lab.publish(folder, loaded, model)
    return job, folder, model


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_the_result_of_a_merge_is_scored(lab, parent, disturb, logits, kind):
    _, folder, model = merged_job(lab, parent, disturb, kind)
    loaded = load_result(folder, "cpu")
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-6, rtol=1e-6)
    assert loaded.tokenizer("12").input_ids == load_start(*lab.job("x"), "cpu").tokenizer("12").input_ids


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_stage_starts_from_a_merged_model(lab, parent, disturb, logits, adapter):
    job, folder, model = merged_job(lab, parent, disturb, "full")
    init = {"init": "continue", "adapter": adapter}
    loaded = load_start(*lab.job("more", parents=(job.id,), settings=init), "cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    assert loaded.identity == load_result(folder, "cpu").identity and not loaded.continues_adapter


@pytest.mark.parametrize("init", ["merge_then_new", "stack"])
def test_a_stage_starts_from_a_merged_adapter(lab, parent, disturb, logits, init):
    job, _, model = merged_job(lab, parent, disturb, "adapter")
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": init, "adapter": LORA})
    torch.testing.assert_close(logits(load_start(*child, "cpu").model), logits(model), atol=1e-5, rtol=1e-5)


def test_a_merged_adapter_is_not_trained_on(lab, parent, disturb):
    job, _, _ = merged_job(lab, parent, disturb, "adapter")
    child = lab.job("more", parents=(parent[0].id, job.id), settings={"init": "continue", "adapter": LORA})
    with pytest.raises(StudyError, match=r"merged of several adapters.*merge_then_new or stack"):
        load_start(*child, "cpu")


@pytest.mark.parametrize(
    ("options", "taken"), [({}, False), ({"vocabulary": "union"}, True), ({"base": {"path": "elsewhere"}}, True)]
)
def test_the_tokenizer_of_a_merge_is_taken_where_it_may_be_another(lab, parent, disturb, options, taken):
    job, folder, _ = merged_job(lab, parent, disturb, "full", **options)
    tokenizer = load_result(folder, "cpu").tokenizer
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder.model)
    reseal(folder.model)
    between, left = lab.job("between", parents=(job.id,), settings={"init": "continue"})
    loaded = load_start(between, left, "cpu")
    assert ("<new>" in loaded.tokenizer.get_vocab()) == taken
    lab.publish(left, loaded)
    after = load_start(*lab.job("after", parents=(between.id,), settings={"init": "continue"}), "cpu")
    assert ("<new>" in after.tokenizer.get_vocab()) == taken
    assert "<new>" in load_result(folder, "cpu").tokenizer.get_vocab()


def test_the_tokenizer_of_a_merge_outlives_a_merge_of_what_came_of_it(lab, parent, disturb):
    job, folder, _ = merged_job(lab, parent, disturb, "full", vocabulary="union")
    tokenizer = load_result(folder, "cpu").tokenizer
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder.model)
    reseal(folder.model)
    settings = {"type": "merge", "method": "linear", "models": {"a": {"stage": "merged"}, "b": {"stage": "base"}}}
    again, left = lab.job("again")
    content = {**again.model_dump(mode="json"), "settings": settings, "inputs": {"a": job.id, "b": parent[0].id}}
    write_json(left.job_json, content)
    copytree(folder.model, left.model)
    after = load_start(*lab.job("after", parents=(again.id,), settings={"init": "continue"}), "cpu")
    assert "<new>" in after.tokenizer.get_vocab()


def test_whole_weights_in_another_type(lab, parent, disturb):
    _, folder, model = adapter_job(lab, parent, disturb)
    for owner, expected in ((folder, model), (parent[1], load_result(parent[1], "cpu").model)):
        whole = load_whole(owner, "cpu", dtype="bfloat16")
        types = {name: p.dtype for name, p in whole.named_parameters() if ".lora_" not in name}
        assert set(types.values()) == {torch.bfloat16}
        assert {name for name, _ in whole.named_parameters()} == {name for name, _ in expected.named_parameters()}

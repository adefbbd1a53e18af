"""Roles on tiny random models of the real classes of transformers."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.models.roles import MARKS, decays, modules_of, role_of, set_trainable, trainable_table

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
}
MOE = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
QWEN_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
QWEN_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**TEXT, "head_dim": 16},
    "llama": TEXT,
    "gemma3_text": {**TEXT, "head_dim": 16},
    "glm4_moe": {**TEXT, **MOE, "head_dim": 16},
    "gpt_neox": {k: v for k, v in TEXT.items() if k != "num_key_value_heads"},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1},
    "internvl": {
        "text_config": {"model_type": "qwen2", **TEXT},
        "vision_config": {**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
    },
    "gemma3": {
        "text_config": {**TEXT, "head_dim": 16},
        "vision_config": {**VISION, "patch_size": 7, "vision_use_head": False},
        "mm_tokens_per_image": 4,
    },
    "qwen3_vl": {"text_config": {**TEXT, "head_dim": 16, "rope_parameters": QWEN_ROPE}, "vision_config": QWEN_VISION},
    "llava": {
        "text_config": {"model_type": "llama", **TEXT},
        "vision_config": {"model_type": "clip_vision_model", **VISION, "patch_size": 14, "projection_dim": 32},
    },
}
VISUAL = ["internvl", "gemma3", "qwen3_vl", "llava"]


def build(architecture: str, **options: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[architecture](**CONFIGS[architecture], **options)
    auto = AutoModelForImageTextToText if architecture in VISUAL else AutoModelForCausalLM
    return auto.from_config(config)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_parameter_lies_below_exactly_one_name(architecture):
    model = build(architecture)
    names = [name for parts in modules_of(model).values() for name in parts]
    for parameter, _ in model.named_parameters():
        assert sum(parameter == name or parameter.startswith(f"{name}.") for name in names) == 1, parameter
    for role, parts in modules_of(model).items():
        for name in parts:
            assert {role_of(p) for p, _ in model.named_parameters() if p.startswith(name)} == {role}


@pytest.mark.parametrize("architecture", VISUAL)
def test_vision_models_have_a_tower_a_projector_and_a_language_model(architecture):
    parts = modules_of(build(architecture))
    assert {"vision_tower", "projector", "language_model"} <= set(parts)
    assert not any("merger" in name for name in parts["vision_tower"])  # Qwen keeps its projector inside `visual`


def test_names_of_remote_internvl_code():
    assert role_of("vision_model.encoder.layers.0.attn.qkv.weight") == "vision_tower"
    assert role_of("mlp1.1.weight") == "projector"
    assert role_of("language_model.model.layers.0.wo.weight") == "language_model"


@pytest.mark.parametrize("architecture", ["qwen3", "internvl", "qwen3_vl"])
def test_freezing_by_role(architecture):
    model = build(architecture)
    for role in modules_of(model):
        set_trainable(model, [role])
        assert {role_of(name) for name, p in model.named_parameters() if p.requires_grad} == {role}
    set_trainable(model, "all")
    assert all(p.requires_grad for p in model.parameters())
    set_trainable(model, "none")
    assert not any(p.requires_grad for p in model.parameters())


def test_a_router_learns_only_when_it_is_named():
    model = build("glm4_moe")
    set_trainable(model, "all")
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert still and all(name.endswith("mlp.gate.weight") for name in still)
    set_trainable(model, ["router"])
    assert still == [name for name, p in model.named_parameters() if p.requires_grad]


def test_what_learns_is_held_in_float32():
    model = build("llava").to(torch.bfloat16)
    set_trainable(model, ["projector"])
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_role_that_the_model_lacks():
    with pytest.raises(StudyError, match="projector is no part of this model; it has: language_model, lm_head"):
        set_trainable(build("qwen3"), ["projector"], key="stages.a.train")


def test_a_tied_head_is_no_role():
    model = build("qwen3", tie_word_embeddings=True)
    assert list(modules_of(model)) == ["language_model"]
    with pytest.raises(StudyError, match="lm_head shares its weight with the input embedding"):
        set_trainable(model, ["lm_head"])


def test_the_table_counts_every_parameter_once():
    model = build("internvl")
    total = sum(p.numel() for p in model.parameters())
    set_trainable(model, ["projector", "language_model"])
    table = trainable_table(model, learning_rate=1e-4, learning_rates={"projector": 5e-4}, adapter=None)
    by_role = {row["role"]: row for row in table}
    assert sum(row["params"] for row in table) == total
    assert by_role["vision_tower"]["trainable"] == 0 and by_role["vision_tower"]["learning_rate"] is None
    assert by_role["projector"]["learning_rate"] == 5e-4 and by_role["language_model"]["learning_rate"] == 1e-4


def test_the_table_with_an_adapter_and_a_role_beside_it():
    plain = {row["role"]: row["params"] for row in _table(build("qwen3_vl"))}
    model = attach(build("qwen3_vl"), LoraAdapter(lora_r=2), ["projector"], seed=0)
    table = {row["role"]: row for row in _table(model, "lora")}
    assert {role: row["params"] for role, row in table.items()} == plain
    assert table["projector"]["trainable"] == table["projector"]["params"] and table["projector"]["adapter"] is None
    assert table["language_model"]["adapter"] == "lora"
    assert sum(row["trainable"] for row in table.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


def _table(model: Any, adapter: str | None = None) -> list[dict[str, Any]]:
    return trainable_table(model, learning_rate=1.0, learning_rates={}, adapter=adapter)


def test_vectors_do_not_decay():
    model = build("qwen3")
    kept = {name for name, p in model.named_parameters() if not decays(p)}
    assert kept and all("norm" in name for name in kept)


def test_no_word_marks_two_roles():
    words = [word for marks in MARKS.values() for word in marks]
    assert len(words) == len(set(words))

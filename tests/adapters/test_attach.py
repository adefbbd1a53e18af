"""Where an adapter goes, what learns beside it, and what is refused."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from tunestudy.adapters.attach import attach
from tunestudy.adapters.targets import shortest, target_names
from tunestudy.config.adapter import LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.publish import save_result
from tunestudy.models.roles import role_of
from tunestudy.models.tokenizer import character_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": [28, 28],
    "patch_size": [7, 7],
}
IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])


def text_model(architecture: str = "llama", **options: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture](**TEXT, **options))


def vision_model() -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING["internvl"](text_config={"model_type": "qwen2", **TEXT}, vision_config=VISION)
    return AutoModelForImageTextToText.from_config(config)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def test_all_linear_leaves_the_head_out():
    names = target_names(text_model(), "all-linear")
    assert len(names) == 2 * 7 and not any("lm_head" in name for name in names)


def test_the_head_can_be_named():
    assert target_names(text_model(), ["lm_head"]) == ["lm_head"]


def test_an_unknown_ending_names_the_nearest():
    with pytest.raises(StudyError, match="no module is named 'qproj'; there are: q_proj"):
        attach(text_model(), LoraAdapter(target_modules=("q_proj", "qproj")))


def test_a_regex_without_a_match():
    with pytest.raises(StudyError, match="names no module"):
        attach(text_model(), LoraAdapter(target_modules=r"encoder\..*"))


def test_train_all_beside_an_adapter_is_refused():
    with pytest.raises(StudyError, match="all leaves no module for the adapter"):
        attach(text_model(), LoraAdapter(), "all")


def test_training_the_only_role_in_full_leaves_nothing_to_adapt():
    with pytest.raises(StudyError, match="outside of language_model"):
        attach(text_model(), LoraAdapter(), ["language_model"])


def test_an_unknown_role_lists_those_there_are():
    with pytest.raises(StudyError, match="it has: language_model, lm_head"):
        attach(text_model(), LoraAdapter(), ["projector"])


def test_a_role_trained_in_full_beside_the_adapter_is_saved_and_loads_stock(tmp_path):
    model = attach(vision_model(), LoraAdapter(lora_r=2), ["projector"], seed=1)
    learning = {role_of(name) for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name}
    assert learning == {"projector"}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    save_result(model, character_tokenizer(CharacterTokenizer(alphabet="ab")), tmp_path / "model")
    stock = PeftModel.from_pretrained(vision_model(), tmp_path / "model")
    images = torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0))

    def projected(wrapped: Any) -> torch.Tensor:
        projector = wrapped.get_base_model().model.multi_modal_projector
        return projector(torch.nn.functional.pad(images, (0, 128 - 48)))

    assert torch.equal(projected(stock), projected(model))
    assert not torch.equal(
        projected(stock), vision_model().model.multi_modal_projector(torch.nn.functional.pad(images, (0, 80)))
    )
    assert torch.equal(logits(stock), logits(model))


def test_modules_trained_in_full_get_no_adapter():
    model = attach(vision_model(), LoraAdapter(lora_r=2), ["vision_tower"], seed=1)
    assert {role_of(name) for name, _ in model.named_parameters() if ".lora_" in name} == {
        "projector",
        "language_model",
    }


def test_numbered_layers_of_a_container_are_not_taken_for_the_layers_of_the_model():
    """A head's linear layers called 0 and 2 beside blocks called 0 and 1: endings alone would name the blocks too."""
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    model = nn.ModuleDict({"layers": blocks, "head": nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 4))})
    assert shortest(["head.0", "head.2"], model) == ["head.0", "head.2"]
    assert shortest(["head.2"], model) == ["2"]


def test_fused_experts_are_refused_in_words():
    moe = {"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    options = {**moe, "n_group": 1, "topk_group": 1, "head_dim": 16}
    with pytest.raises(StudyError, match=r"fuses its experts; name modules outside of them, such as k_proj"):
        attach(text_model("glm4_moe", **options), LoraAdapter())
    attention = LoraAdapter(target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
    model = attach(text_model("glm4_moe", **options), attention, seed=0)
    assert sum(".lora_A." in name for name, _ in model.named_parameters()) == 8


def test_gpt2_with_its_transposed_linear_layers():
    torch.manual_seed(0)
    config = CONFIG_MAPPING["gpt2"](n_embd=32, n_layer=2, n_head=2, vocab_size=40, bos_token_id=0, eos_token_id=1)
    plain = AutoModelForCausalLM.from_config(config)
    expected = logits(plain)
    assert torch.equal(logits(attach(plain, LoraAdapter(lora_r=2), seed=0)), expected)

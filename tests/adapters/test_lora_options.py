"""LoRA's options: how it starts, ranks by module, roles, fused experts."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from tunestudy.adapters.attach import attach
from tunestudy.config.adapter import OWN_FACTORS, LoraAdapter
from tunestudy.config.errors import StudyError
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.publish import save_result
from tunestudy.models.stored import by_file
from tunestudy.models.tokenizer import character_tokenizer
from tunestudy.train.checkpoint import adapter_config_text

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "vocab_size": 40,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])


def base():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Qwen3Config(**SIZES))


def moe():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    )


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.mark.parametrize("start", ["default", "gaussian", "orthogonal", "pissa", "olora"])
def test_every_start_leaves_the_model_as_it_is_and_depends_on_the_seed_alone(start):
    adapter = LoraAdapter(lora_r=4, init_lora_weights=start)
    one, again, other = (attach(base(), adapter, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(logits(one), logits(base()), atol=1e-5, rtol=1e-5)
    factors = [dict(model.named_parameters()) for model in (one, again, other)]
    name = next(name for name in factors[0] if ".lora_A." in name)
    assert torch.equal(factors[0][name], factors[1][name])
    assert torch.equal(factors[0][name], factors[2][name]) == (start in OWN_FACTORS)


def moved(model):
    """An adapter after some training, in place: the same for every model with the same names."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_A.default" in name or ".lora_B.default" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("start", OWN_FACTORS)
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}}]
)
def test_own_factors_train_as_pefts_do_and_load_with_stock_peft(tmp_path, start, options):
    ours = attach(
        base(), LoraAdapter(lora_r=4, lora_alpha=6, lora_dropout=0.5, init_lora_weights=start, **options), seed=1
    )
    assert not [name for name, p in ours.named_parameters() if p.requires_grad and ".default" not in name]
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    theirs = get_peft_model(
        base(), LoraConfig(r=4, lora_alpha=6, init_lora_weights=start, target_modules=targets, **options)
    )
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    moved(ours)
    factors = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        if ".default" in name:
            parameter.data.copy_(factors[name])
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    pristine = base()
    pristine.save_pretrained(tmp_path / "base")
    ours.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    tokenizer = character_tokenizer(CharacterTokenizer(type="characters", alphabet="ab"))
    save_result(ours, tokenizer, tmp_path / "model")
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base(), tmp_path / "model")), logits(ours), atol=1e-5, rtol=1e-5
    )


def test_a_lite_checkpoint_of_own_factors_says_how_it_began(tmp_path):
    ours = moved(attach(base(), LoraAdapter(lora_r=4, init_lora_weights="pissa"), seed=1))
    for name, text in adapter_config_text(ours, tmp_path).items():
        (tmp_path / name).write_text(text)
    state = {name: p.detach() for name, p in ours.named_parameters() if p.requires_grad}
    for file, tensors in by_file(state).items():
        save_file(tensors, tmp_path / file)
    stock = PeftModel.from_pretrained(base(), tmp_path)
    torch.testing.assert_close(logits(stock), logits(ours), atol=1e-5, rtol=1e-5)


def test_gaussian_and_orthogonal_are_what_they_say():
    layer = "base_model.model.model.layers.0.mlp.up_proj"
    gaussian = attach(base(), LoraAdapter(lora_r=16, init_lora_weights="gaussian"), seed=1).get_submodule(layer)
    assert float(gaussian.lora_A["default"].weight.std()) == pytest.approx(1 / 16, rel=0.15)
    orthogonal = attach(base(), LoraAdapter(lora_r=8, init_lora_weights="orthogonal"), seed=1).get_submodule(layer)
    down, up = orthogonal.lora_A["default"].weight, orthogonal.lora_B["default"].weight
    assert float(up.abs().max()) > 0.01
    torch.testing.assert_close(up @ down, torch.zeros(48, 32), atol=1e-6, rtol=0)


def test_rank_and_alpha_by_module():
    adapter = LoraAdapter(lora_r=4, lora_alpha=8, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 2})
    model = attach(base(), adapter, seed=1)
    layers = model.base_model.model.model.layers
    assert layers[0].self_attn.q_proj.r["default"] == 2 and layers[0].mlp.up_proj.r["default"] == 4
    assert layers[1].mlp.up_proj.scaling["default"] == 0.5 and layers[0].mlp.up_proj.scaling["default"] == 2.0


@pytest.mark.parametrize("option", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_fits_nothing_is_an_error(option):
    with pytest.raises(StudyError, match="fits no adapted module; there are: q_proj"):
        attach(base(), LoraAdapter(lora_r=4, **{option: {"q_prj": 2}}), seed=1)


def test_a_rank_larger_than_the_matrix_is_an_error():
    with pytest.raises(StudyError, match=r"rank 33 is larger than model\.layers\.0\..* allows.*at most 16"):
        attach(base(), LoraAdapter(lora_r=33, target_modules=("k_proj",)), seed=1)


def test_target_by_role():
    model = attach(base(), LoraAdapter(lora_r=2, target="language_model"), seed=1)
    assert any(".lora_A." in name for name, _ in model.named_parameters())
    with pytest.raises(StudyError, match="vision_tower is no part of this model"):
        attach(base(), LoraAdapter(lora_r=2, target="vision_tower"), seed=1)


def test_a_role_that_the_target_modules_are_not_in_is_an_error():
    untied = AutoModelForCausalLM.from_config(Qwen3Config(**SIZES, tie_word_embeddings=False))
    with pytest.raises(StudyError, match="q_proj"):
        attach(untied, LoraAdapter(lora_r=2, target="lm_head", target_modules=("q_proj",)), seed=1)


def test_fused_experts_learn_and_load_with_stock_peft(tmp_path):
    adapter = LoraAdapter(
        lora_r=2, target_modules=("q_proj",), target_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
    )
    model = attach(moe(), adapter, seed=1)
    torch.testing.assert_close(logits(model), logits(moe()), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert not torch.allclose(logits(model), logits(moe()), atol=1e-3)
    save_result(model, character_tokenizer(CharacterTokenizer(alphabet="ab")), tmp_path / "model")
    torch.testing.assert_close(logits(PeftModel.from_pretrained(moe(), tmp_path / "model")), logits(model))


def test_a_parameter_that_is_not_there_is_an_error():
    with pytest.raises(StudyError, match=r"no parameter ends with.*gate_up_proj"):
        attach(
            moe(), LoraAdapter(lora_r=2, target_modules=("q_proj",), target_parameters=("mlp.experts.nope",)), seed=1
        )

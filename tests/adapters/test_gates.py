"""Gates: their rules against an independent computation, folding, and what stock PEFT must not do with them."""

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.adapters import sora
from tunestudy.adapters.attach import attach
from tunestudy.adapters.gates import Gated, gates_of, hard_threshold, official_threshold, smallest, soft_threshold
from tunestudy.config.adapter import SdoraAdapter, SoraAdapter
from tunestudy.config.errors import StudyError

IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])
VALUES = [-2.0, -0.75, -0.5, -0.3, 0.0, 0.2, 0.25, 0.5, 0.6, 3.0]


def base(dtype=torch.float32):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(Qwen3Config(**sizes, **heads), dtype=dtype)


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def trained(adapter=None):
    """A model whose A, B and magnitudes have moved, and of whose gates a third is shut."""
    model = attach(base(), adapter or SoraAdapter(lora_r=6, lora_alpha=9, sparse_lambda=0.1), seed=1)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    gates = gates_of(model)
    hard_threshold(gates, smallest(gates, sum(g.gate.numel() for g in gates.values()) // 3))
    return model


def alone(values):
    return {"m": Gated(nn.Parameter(torch.tensor(values)), 1)}


def test_soft_threshold_is_the_textbooks():
    gates = alone(VALUES)
    soft_threshold(gates, 0.5)
    expected = [math.copysign(max(abs(v) - 0.5, 0.0), v) for v in VALUES]
    assert gates["m"].gate.tolist() == pytest.approx(expected, abs=1e-7)


def test_official_threshold_is_the_published_sequence():
    def published(value, limit):
        if value > limit:
            value -= limit
        if value < -limit:
            value += limit
        return 0.0 if abs(value) < limit else value

    gates = alone(VALUES)
    official_threshold(gates, 0.25)
    assert gates["m"].gate.tolist() == pytest.approx([published(v, 0.25) for v in VALUES], abs=1e-7)


def test_official_keeps_what_is_exactly_at_the_threshold():
    gates = alone([0.25, -0.25, 0.5])
    official_threshold(gates, 0.25)
    assert gates["m"].gate.tolist() == [0.25, -0.25, 0.25]


def test_forward_is_the_formula():
    model = trained()
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    down, up, gate = (part["default"] for part in (layer.lora_A, layer.lora_B, layer.lora_gate))
    weight = layer.base_layer.weight + 9 / 6 * up.weight @ torch.diag(gate) @ down.weight
    torch.testing.assert_close(layer(x), x @ weight.T, atol=1e-6, rtol=1e-5)


def test_gates_are_float32_on_a_half_precision_base():
    model = attach(base(torch.bfloat16), SoraAdapter(sparse_lambda=0.1), seed=1)
    assert {gated.gate.dtype for gated in gates_of(model).values()} == {torch.float32}


def test_a_small_pull_is_not_lost_on_a_half_precision_base():
    model = attach(base(torch.bfloat16), SoraAdapter(sparse_lambda=0.1, gate_init="ones"), seed=1)
    for _ in range(10):
        sora.shrink(model, 1e-5)
    assert all(torch.allclose(g.gate, torch.tensor(1 - 1e-4), atol=1e-6) for g in gates_of(model).values())


@pytest.mark.parametrize("kind", [SoraAdapter, SdoraAdapter])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_folded_equals_live(kind, use_rslora, tmp_path):
    model = trained(kind(lora_r=6, lora_alpha=9, sparse_lambda=0.1, use_rslora=use_rslora))
    sora.save(model, tmp_path / "out")
    stock = PeftModel.from_pretrained(base(), tmp_path / "out")
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=1e-5)
    ranks = {name: int((g.gate != 0).sum()) for name, g in gates_of(model).items()}
    assert stock.peft_config["default"].rank_pattern == {name: max(1, rank) for name, rank in ranks.items()}


@pytest.mark.parametrize("kind", [SoraAdapter, SdoraAdapter])
def test_all_gates_shut(kind, tmp_path):
    model = trained(kind(lora_r=6, sparse_lambda=0.1))
    soft_threshold(gates_of(model), 100.0)
    sora.save(model, tmp_path / "out")
    stock = PeftModel.from_pretrained(base(), tmp_path / "out")
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=1e-5)
    if kind is SoraAdapter:
        torch.testing.assert_close(logits(stock), logits(base()))


def test_merge_and_unmerge():
    model = trained()
    expected, plain = logits(model), logits(base())
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-3)


@pytest.mark.parametrize("kind", [SoraAdapter, SdoraAdapter])
def test_raw_form_loads_and_trains_on(kind, tmp_path):
    model = trained(kind(lora_r=6, lora_alpha=9, sparse_lambda=0.1))
    sora.save(model, tmp_path / "out")
    again = sora.load(base(), tmp_path / "out")
    torch.testing.assert_close(logits(again), logits(model), atol=0, rtol=0)
    again.train()(input_ids=IDS, labels=IDS).loss.backward()
    assert all(gated.gate.grad is not None for gated in gates_of(again).values())


def test_stock_peft_cannot_load_the_raw_form(tmp_path):
    model = trained()
    sora.save(model, tmp_path / "out")
    with pytest.raises(Exception, match=r"adapter_config\.json"):
        PeftModel.from_pretrained(base(), tmp_path / "out" / "gated")
    renamed = tmp_path / "out" / "gated"
    (renamed / "gated_adapter_config.json").rename(renamed / "adapter_config.json")
    (renamed / "gated_adapter.safetensors").rename(renamed / "adapter_model.safetensors")
    with pytest.raises((KeyError, ValueError, TypeError), match="SORA"):
        PeftModel.from_pretrained(base(), renamed)


def test_stock_saving_is_refused(tmp_path):
    with pytest.raises(StudyError, match="without its gates"):
        trained().save_pretrained(tmp_path / "out")


def test_loading_what_has_no_gates_is_refused(tmp_path):
    get_peft_model(base(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "plain")
    with pytest.raises(StudyError, match="no adapter with gates"):
        sora.load(base(), tmp_path / "plain")


def test_a_raw_form_that_lacks_a_gate_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    sora.save(trained(), tmp_path / "out")
    file = tmp_path / "out" / "gated" / "gated_adapter.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "lora_gate" in name)]
    save_file(tensors, file)
    with pytest.raises(StudyError, match=r"1 tensors, such as .*lora_gate"):
        sora.load(base(), tmp_path / "out")


def test_three_lines_outside_of_the_trainer():
    model = get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear"))
    sora.gate(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        sora.shrink(model, threshold=0.1)
    shut = sum(int((g.gate == 0).sum()) for g in gates_of(model).values())
    assert 0 < shut < sum(g.gate.numel() for g in gates_of(model).values())


def test_embeddings_cannot_have_gates():
    with pytest.raises(StudyError, match="embedding"):
        attach(base(), SoraAdapter(sparse_lambda=0.1, target_modules=("embed_tokens", "q_proj")), seed=1)

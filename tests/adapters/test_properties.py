"""The matrix that every adapter must pass; a new kind is one line in KINDS."""

from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tunestudy.adapters.attach import attach, kind_of
from tunestudy.adapters.targets import target_names
from tunestudy.config.adapter import AnyAdapter, DoraAdapter, LoraAdapter, MoleAdapter, SdoraAdapter, SoraAdapter
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.publish import save_result
from tunestudy.models.tokenizer import character_tokenizer

KINDS: dict[str, AnyAdapter] = {
    "lora": LoraAdapter(lora_r=4, lora_alpha=8),
    "lora-rslora": LoraAdapter(lora_r=4, lora_alpha=8, use_rslora=True),
    "lora-attention": LoraAdapter(lora_r=2, target_modules=("q_proj", "v_proj")),
    "lora-regex": LoraAdapter(lora_r=2, target_modules=r".*layers\.1\.mlp\..*"),
    "dora": DoraAdapter(lora_r=4, lora_alpha=8),
    "dora-dropout": DoraAdapter(lora_r=4, lora_dropout=0.2, dropout_on="adapter"),
    "dora-rslora": DoraAdapter(lora_r=4, use_rslora=True, target_modules=("q_proj", "up_proj")),
    "sora": SoraAdapter(lora_r=4, lora_alpha=8, sparse_lambda=0.1),
    "sora-rslora": SoraAdapter(lora_r=4, use_rslora=True, gate_init="ones", target_sparsity=0.5),
    "sdora": SdoraAdapter(lora_r=4, lora_alpha=8, sparse_lambda=0.1),
}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 40,
}
IDS = torch.tensor([[4, 9, 11, 30, 7, 5]])


def base(dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(Qwen3Config(**SIZES, head_dim=16), dtype=dtype)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def moved(model: Any) -> Any:
    """The model after its trainable tensors have moved, as by training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


every_kind = pytest.mark.parametrize("adapter", KINDS.values(), ids=KINDS.keys())


@every_kind
def test_identity_at_the_start(adapter):
    assert torch.equal(logits(attach(base(), adapter, seed=1)), logits(base()))


@every_kind
def test_only_its_own_parameters_learn(adapter):
    model = attach(base(), adapter, seed=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # at first only one of the factors gets a gradient that is not zero
        optimizer.zero_grad()
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


@every_kind
def test_counts_equal_the_formula(adapter):
    model, kind = base(), kind_of(adapter)
    modules = [model.get_submodule(name) for name in target_names(model, adapter.target_modules)]
    assert all(isinstance(module, nn.Linear) for module in modules)
    expected = sum(kind.num_parameters(adapter, m.in_features, m.out_features) for m in modules)
    attached = attach(model, adapter, seed=1)
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == expected


@every_kind
def test_save_and_load_with_stock_peft_are_equal(adapter, tmp_path):
    model = moved(attach(base(), adapter, seed=1))
    save_result(model, character_tokenizer(CharacterTokenizer(alphabet="ab")), tmp_path / "model")
    stock = logits(PeftModel.from_pretrained(base(), tmp_path / "model"))
    if adapter.type == "lora":
        assert torch.equal(stock, logits(model))
    torch.testing.assert_close(stock, logits(model), atol=1e-5, rtol=1e-5)


@every_kind
def test_merged_equals_unmerged(adapter):
    model = moved(attach(base(), adapter, seed=1))
    expected = logits(model)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, atol=1e-5, rtol=1e-5)


@every_kind
def test_it_learns_in_float32_on_a_half_precision_base(adapter):
    model = attach(base(torch.bfloat16), adapter, seed=1)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


@every_kind
def test_start_depends_on_seed_and_names_alone(adapter):
    first = attach(base(), adapter, seed=7)
    torch.rand(3)
    again = attach(base(), adapter, seed=7)
    other = attach(base(), adapter, seed=8)
    for (name, a), (_, b) in zip(first.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert any(
        not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True) if a.requires_grad
    )


@every_kind
def test_adding_modules_does_not_change_the_others_start(adapter):
    few = attach(base(), adapter, seed=7)
    deeper = LlamaConfig(**{**SIZES, "num_hidden_layers": 3}, head_dim=16)
    many = attach(AutoModelForCausalLM.from_config(deeper), adapter, seed=7)
    theirs = dict(many.named_parameters())
    for name, parameter in few.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:  # magnitudes start as the base's norms
            assert torch.equal(parameter, theirs[name]), name


def test_every_kind_of_the_settings_is_in_the_matrix():
    union = get_args(AnyAdapter)[0]
    kinds = {get_args(kind)[0] for kind in get_args(union)} - {MoleAdapter}  # needs experts: test_mole.py
    assert {type(adapter) for adapter in KINDS.values()} == kinds

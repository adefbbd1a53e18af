"""Samples laid end to end are computed as if each were alone."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.attention import samples_leak, switch_to_segment_attention
from tunestudy.models.decoder import SEGMENT_ATTENTION, last_hidden_states

torch.set_num_threads(1)

LENGTHS = [9, 1, 14, 5]
SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=1),
    "gpt_neox": GPTNeoXConfig(**SHAPE, bos_token_id=0, eos_token_id=0),
    "gemma3": Gemma3TextConfig(**SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=4),
}
SEGMENTED = ("qwen3", "llama", "gpt_neox")


def make(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(deepcopy(CONFIGS[name]), dtype=torch.float32).eval()


def laid_out(ids: Tensor, lengths: list[int]) -> Batch:
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    borders = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return Batch(
        input_ids=ids,
        position_ids=positions,
        targets=torch.full_like(ids, IGNORED),
        num_tokens=ids.shape[1],
        num_targets=0,
        cu_seqlens=borders,
    )


def random_ids(seed: int = 0) -> Tensor:
    return torch.randint(61, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(seed))


def gradients(model: Any, outputs: Tensor) -> Tensor:
    """Of a fixed random projection of the outputs, all parameters in one vector."""
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    parameters = [p for name, p in model.named_parameters() if "lm_head" not in name and "embed_out" not in name]
    parts = torch.autograd.grad((outputs * weights).sum(), parameters)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("name", [*SEGMENTED, "gemma3"])
def test_together_equals_alone(name: str) -> None:
    model = make(name)
    assert (switch_to_segment_attention(model) is None) == (name in SEGMENTED)
    ids = random_ids()
    together = last_hidden_states(model, laid_out(ids, LENGTHS))
    alone = torch.cat(
        [model.base_model(input_ids=part, use_cache=False).last_hidden_state for part in ids.split(LENGTHS, dim=1)],
        dim=1,
    )
    assert bool((together - alone).abs().max() <= 1e-6 * max(1.0, alone.detach().abs().max()))
    expected = gradients(model, alone)
    assert (gradients(model, together) - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("name", [*SEGMENTED, "gemma3"])
@pytest.mark.parametrize("changed", range(len(LENGTHS)))
def test_a_sample_reaches_no_other(name: str, changed: int) -> None:
    model = make(name)
    switch_to_segment_attention(model)
    ids = random_ids()
    others = list(ids.split(LENGTHS, dim=1))
    others[changed] = (others[changed] + 1) % 61
    before = last_hidden_states(model, laid_out(ids, LENGTHS)).split(LENGTHS, dim=1)
    after = last_hidden_states(model, laid_out(torch.cat(others, dim=1), LENGTHS)).split(LENGTHS, dim=1)
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(a, b) == (index != changed)


def test_no_mask_of_all_tokens_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("qwen3")
    assert switch_to_segment_attention(model) is None
    masks: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        masks.append(kwargs.get("attn_mask"))
        return attend(*args, **kwargs)

    monkeypatch.setattr("tunestudy.models.attention.scaled_dot_product_attention", spy)
    last_hidden_states(model, laid_out(random_ids(), LENGTHS))
    assert masks == [None] * (len(LENGTHS) * model.config.num_hidden_layers)


def test_plain_calls_stay_plain() -> None:
    """Left padding, caches and generation work as before the switch."""
    model = make("llama")
    ids = random_ids()[:, :8].view(2, 4)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    expected = model(input_ids=ids, attention_mask=mask).logits
    written = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert switch_to_segment_attention(model) is None
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits[mask.bool()], expected[mask.bool()])
    again = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(again, written)


def test_the_switch_is_not_published() -> None:
    model = make("qwen3")
    assert switch_to_segment_attention(model) is None
    assert SEGMENT_ATTENTION not in model.config.to_json_string(use_diff=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding_attention"),
        ({"sliding_window": 8, "use_sliding_window": True}, "sliding"),
        ({"attn_logit_softcapping": 50.0}, "soft-capped"),
        ({"is_causal": False}, "looks ahead"),
    ],
)
def test_what_it_cannot_compute_is_left_alone(change: dict[str, Any], said: str) -> None:
    model = make("qwen3")
    for name, value in change.items():
        setattr(model.config, name, value)
    assert said in (switch_to_segment_attention(model) or "")
    assert model.config._attn_implementation == "sdpa"


def test_a_model_that_mixes_samples_is_found_out() -> None:
    bloom = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=61, hidden_size=32, n_layer=1, n_head=4))
    mamba = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1))
    assert "mixes samples" in (samples_leak(bloom) or "")
    assert "mixes samples" in (samples_leak(mamba) or "")
    assert samples_leak(make("gemma3")) is None


def test_the_trial_leaves_no_trace() -> None:
    model = make("qwen3").train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    assert switch_to_segment_attention(model) is None
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


def test_mixed_types_run_in_the_shortest() -> None:
    """Frozen weights in bfloat16 below trainable ones in float32."""
    model = make("qwen3").to(torch.bfloat16)
    model.model.layers[0].mlp.float()
    assert switch_to_segment_attention(model) is None


def test_activation_checkpointing_keeps_segments() -> None:
    model = make("qwen3")
    assert switch_to_segment_attention(model) is None
    batch = laid_out(random_ids(), LENGTHS)
    model.train()
    expected = gradients(model, last_hidden_states(model, batch))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert torch.equal(gradients(model, last_hidden_states(model, batch)), expected)

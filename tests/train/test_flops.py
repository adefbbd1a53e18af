"""Operations per token against torch's own counter."""

import pytest
import torch
from tinyjob import tiny_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

from tunestudy.train.flops import flops_per_token

LENGTH = 16


def counted(model: torch.nn.Module) -> float:
    """Operations per token of a training step on one sample, as torch counts them (attention without causality)."""
    ids = torch.arange(1, LENGTH + 1)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    return counter.get_total_flops() / LENGTH


@pytest.mark.parametrize("tied", [True, False])
def test_the_count_equals_torchs(tied: bool) -> None:
    config = Qwen3Config(**{**tiny_model()["config"], "tie_word_embeddings": tied}, vocab_size=64)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert flops_per_token(model, context=LENGTH) == pytest.approx(counted(model), rel=0.01)


def test_frozen_weights_cost_two_thirds() -> None:
    model = AutoModelForCausalLM.from_config(Qwen3Config(**tiny_model()["config"], vocab_size=64))
    whole = flops_per_token(model, context=0.0)
    model.requires_grad_(False)
    assert flops_per_token(model, context=0.0) == pytest.approx(whole * 2 / 3, rel=1e-6)
    assert flops_per_token(model, context=0.0, target_share=0.5) < flops_per_token(model, context=0.0)

"""Floating-point operations per token, counted from the shapes of a model."""

from typing import Any

from torch import nn

from tunestudy.models.quantize import num_values, whole_shape

MULTIPLY_ADD = 2
"""Operations per weight and token in a matrix product."""


def flops_per_token(model: Any, *, context: float, target_share: float = 1.0) -> int:
    """Operations of one training step per token: forward, gradients of activations, gradients of trained weights.

    context: mean number of positions that a token attends to. target_share: targets ÷ tokens (others skip the head).
    A frozen weight needs no gradient of its own (a third less); activation checkpointing's second forward pass is not
    counted, since it is no useful work. Norms and other cheap operations are left out.
    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1, split into its three products.
    """
    head = model.get_output_embeddings()
    total = 0.0
    for name, module in model.named_modules():
        for parameter in _matrices(module):
            share = target_share if module is head else _active_share(model, name)
            passes = 3 if parameter.requires_grad else 2
            total += MULTIPLY_ADD * passes * num_values(parameter) * share
    return round(total + 3 * _attention(model, context))


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    """A module's own weights that tokens are multiplied with: linear layers and stacked experts, not embeddings."""
    if isinstance(module, nn.Embedding):
        return []
    weights = module.parameters(recurse=False)
    return [weight for weight in weights if len(whole_shape(weight)) in (2, 3)]


def _active_share(model: Any, name: str) -> float:
    """The share of experts that see a token; 1 outside of them."""
    config = model.config.get_text_config()
    experts = next(
        (n for key in ("num_experts", "num_local_experts", "n_routed_experts") if (n := getattr(config, key, None))),
        None,
    )
    if ".experts" not in name or not experts:
        return 1.0
    return float(config.num_experts_per_tok) / float(experts)


def _attention(model: Any, context: float) -> float:
    """Forward operations per token of scores and weighted values in all layers."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    width = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
    return 2.0 * MULTIPLY_ADD * int(config.num_hidden_layers) * int(heads) * int(width) * context

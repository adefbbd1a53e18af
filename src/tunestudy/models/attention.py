"""Attention over samples laid end to end: each sees only itself, and no mask of tokens × tokens is built.

A model that can do this takes ragged samples without padding. Whether it can is found out by trying: a few
tokens laid end to end must give what the same samples give alone.
"""

import inspect
import warnings
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.decoder import (
    SEGMENT_ATTENTION,
    Segments,
    base_model_of,
    last_hidden_states,
    nearly_equal,
    sees_only_the_past,
    trial_run,
)


def switch_to_segment_attention(model: nn.Module) -> str | None:
    """Switch the model to segment attention if it keeps samples apart exactly; otherwise leave it as it was.

    None when the switch was made, else what stands in the way.
    """
    base = base_model_of(model)
    before = base.config._attn_implementation
    obstacle = switch_untried(model)
    if obstacle is not None:
        return obstacle
    obstacle = samples_leak(base)
    if obstacle is not None:
        base.set_attn_implementation(before)
    return obstacle


def switch_untried(model: nn.Module) -> str | None:
    """Switch the model to segment attention by its configuration alone; what stands in the way, None when it is done.

    For models without numbers, which no run can try."""
    base = base_model_of(model)
    obstacle = _structural_obstacle(base)
    if obstacle is None:
        AttentionInterface.register(SEGMENT_ATTENTION, segment_attention)
        AttentionMaskInterface.register(SEGMENT_ATTENTION, sdpa_mask)
        base.set_attn_implementation(SEGMENT_ATTENTION)
    return obstacle


def _structural_obstacle(base: Any) -> str | None:
    """What segment attention does not compute, as far as the configuration tells."""
    config = base.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        return f"layers with {', '.join(sorted(layer_types - {'full_attention'}))}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return f"sliding-window attention over {config.sliding_window} positions"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "soft-capped attention"
    if not sees_only_the_past(base):
        return "attention that also looks ahead"
    if not base._supports_sdpa:
        return f"{type(base).__name__} does not support SDPA"
    return None


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside every segment.

    Shapes: query (1, H, T, d), key and value (1, G, T, d) with G dividing H → (1, T, H, d).
    Raises ValueError for what it does not compute, so that the trial run finds it.
    """
    if segments is None or kwargs.get("is_causal") is False:  # a vision tower's, whose images are rows of their own
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    extras = [name for name in ("softcap", "s_aux", "position_bias", "sliding_window") if kwargs.get(name) is not None]
    if extras or not getattr(module, "is_causal", True):
        raise ValueError(f"segment attention is causal and has no {extras}")
    if not dropout and _varlen_works(
        query.device, _compute_dtype(query), query.shape[3], query.shape[1] // key.shape[1]
    ):
        return _varlen(query, key, value, scaling, segments), None
    return _run_by_run(query, key, value, dropout, scaling, segments), None


def _run_by_run(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None, segments: Segments
) -> Tensor:
    """SDPA's causal kernel per segment; neighbours of equal length go as one batch: (1, H, n·L, d) → (n, H, L, d).

    `split` keeps the backward pass to one concatenation per tensor.
    """
    grouped = query.shape[1] != key.shape[1]
    sizes = [number * length for number, length in segments.runs]
    outputs = []
    for (number, length), *parts in zip(
        segments.runs, *(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True
    ):
        q, k, v = (part.unflatten(2, (number, length))[0].transpose(0, 1) for part in parts)
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _compute_dtype(query: Tensor) -> torch.dtype:
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


@lru_cache
def _varlen_works(device: torch.device, dtype: torch.dtype, head_dim: int, groups: int) -> bool:
    """Whether torch's variable-length kernel is here, takes this shape and agrees with SDPA."""
    if device.type != "cuda" or dtype == torch.float32 or find_spec("torch.nn.attention.varlen") is None:
        return False
    random = torch.Generator(device).manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 24, head_dim, generator=random, device=device, dtype=dtype) for heads in (groups, 1, 1)
    )
    segments = Segments(torch.tensor([0, 16, 24], dtype=torch.int32, device=device))
    try:
        got = _varlen(query, key, value, None, segments)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        warnings.warn(f"segments are attended one by one: no variable-length kernel ({error})", stacklevel=2)
        return False
    return nearly_equal(got, _run_by_run(query, key, value, 0.0, None, segments))


def _varlen(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, segments: Segments) -> Tensor:
    """torch's variable-length kernel; the number of positions bounds the longest segment without asking the device."""
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    parameters = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": scaling}
    options |= {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    if "enable_gqa" in parameters:
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    q, k, v = (tensor[0].transpose(0, 1).to(_compute_dtype(query)) for tensor in (query, key, value))
    borders = segments.borders.to(q.device)
    output = varlen_attn(q, k, v, borders, borders, len(q), len(q), **options)
    assert isinstance(output, Tensor)
    return output[None]


def samples_leak(model: nn.Module) -> str | None:
    """What is wrong when two samples share a row of this model, as it is set up now; None when they stay apart."""
    base = base_model_of(model)
    embeddings = base.get_input_embeddings().weight
    ids = torch.arange(1, 14, device=embeddings.device)[None] * 7 % len(embeddings)
    lengths = [8, 5]
    together = _trial_batch(ids, lengths)
    apart = [_trial_batch(part, [part.shape[1]]) for part in torch.split(ids, lengths, dim=1)]
    try:
        with trial_run(base):
            got = last_hidden_states(base, together)
            expected = torch.cat([last_hidden_states(base, batch) for batch in apart], dim=1)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        return f"{type(base).__name__} cannot lay samples end to end: {error}"
    if not nearly_equal(got, expected):
        return f"{type(base).__name__} mixes samples that share a row"
    return None


def _trial_batch(ids: Tensor, lengths: list[int]) -> Batch:
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=ids.device)
    positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])[None]
    return Batch(
        input_ids=ids,
        position_ids=positions,
        targets=torch.full_like(ids, IGNORED),
        num_tokens=ids.shape[1],
        num_targets=0,
        cu_seqlens=borders,
    )

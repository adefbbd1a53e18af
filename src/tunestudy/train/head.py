"""What a model's head does between last hidden states and logits, found out before training starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tunestudy.data.batch import IGNORED, Batch
from tunestudy.models.decoder import base_model_of, forward_arguments, last_hidden_states, nearly_equal, trial_run


@dataclass(frozen=True)
class Head:
    """How to get a model's logits: softcap · tanh(scale · head(hidden) / softcap), or only by asking the model."""

    kind: Literal["fused", "chunked", "full"]
    """`fused`: one plain linear layer, cross-entropy without logits. `chunked`: the head module, a chunk of positions
    at a time. `full`: the whole model's logits."""
    reason: str | None
    """Why it is not fused; None when it is."""
    vocabulary: int
    scale: float = 1.0
    softcap: float | None = None

    def finish(self, logits: Tensor) -> Tensor:
        """What the model does to its head's output."""
        logits = logits * self.scale if self.scale != 1.0 else logits
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def check_head(model: nn.Module) -> Head:
    """Compare a few tokens' logits of the model with those of its head; what does not agree is not used."""
    base = base_model_of(model)
    module = base.get_output_embeddings()
    ids = torch.arange(1, 6, device=base.get_input_embeddings().weight.device)[None]
    batch = Batch(
        input_ids=ids,
        position_ids=ids - 1,
        targets=torch.full_like(ids, IGNORED),
        num_tokens=5,
        num_targets=0,
    )
    with trial_run(base):
        expected = base(**forward_arguments(base, batch)).logits
        if module is None:
            return Head("full", f"{type(base).__name__} names no head", expected.shape[-1])
        plain = module(last_hidden_states(base, batch)).to(expected.device)
    for scale, softcap in _known_finishes(base.config.get_text_config()):
        head = Head("chunked", None, expected.shape[-1], scale, softcap)
        if plain.shape == expected.shape and nearly_equal(head.finish(plain.float()), expected):
            return _fused_if_exact(head, module)
    return Head(
        "full", f"{type(base).__name__} changes its head's logits in a way that is not known", expected.shape[-1]
    )


def plain_linear(module: nn.Module) -> nn.Linear | None:
    """The linear layer that a call of this head amounts to; None when it does anything more."""
    linear = inner_linear(module)
    hooked = linear is None or linear._forward_hooks or linear._forward_pre_hooks or hasattr(linear, "_hf_hook")
    return None if hooked else linear


def inner_linear(module: nn.Module) -> nn.Linear | None:
    """The linear layer of a head, whatever hooks an engine has put around it since it was checked."""
    if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):  # PEFT's copy that is trained
        active = list(module.active_adapters)  # type: ignore[arg-type]
        disabled = module.disable_adapters
        module = module.original_module if disabled else module.modules_to_save[active[0]]  # type: ignore[index,assignment]
    return module if type(module) is nn.Linear else None


def _known_finishes(config: Any) -> Iterator[tuple[float, float | None]]:
    """(scale, softcap) that configurations of transformers ask for; the comparison decides."""
    softcap = getattr(config, "final_logit_softcapping", None)
    scales = [1.0]
    scales += [float(config.logit_scale)] if getattr(config, "logit_scale", None) else []
    scales += [1.0 / float(config.logits_scaling)] if getattr(config, "logits_scaling", None) else []
    scales += [float(config.lm_head_multiplier)] if getattr(config, "lm_head_multiplier", None) else []
    for scale in dict.fromkeys(reversed(scales)):
        if softcap is not None:
            yield scale, float(softcap)
        yield scale, None


def _fused_if_exact(head: Head, module: nn.Module) -> Head:
    linear = plain_linear(module)
    if linear is None:
        reason = f"the head is a {type(module).__module__}.{type(module).__name__}, not a plain linear layer"
    elif head.softcap is not None:
        reason = "logits are soft-capped"
    elif head.scale != 1.0 and linear.bias is not None:
        reason = "logits with a bias are scaled"
    else:
        return Head("fused", None, head.vocabulary, head.scale)
    return Head("chunked", reason, head.vocabulary, head.scale, head.softcap)

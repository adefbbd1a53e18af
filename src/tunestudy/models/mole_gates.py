"""Gates of a mixture of LoRA experts: one per decoder block, and what they must know about a forward pass.

Shapes: B rows, T positions, E experts, S samples, D the model's width. A gate's shares can be broadcast to (B, T, E).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunestudy.config.adapter import MoleAdapter
from tunestudy.data.batch import IGNORED, Batch


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What the positions of one forward pass are. None: all alike, as the field says."""

    real: Tensor | None = None
    """(B, T) bool, False on padding and on what fills up a batch. None: all are real."""
    prompt: Tensor | None = None
    """(B, T) bool, what a gate over a sequence sees: a sample's tokens before its first target. None: all real."""
    sample: Tensor | None = None
    """(B, T) int64, which of `num_samples` a position is of. None: each row is a sample."""
    num_samples: int = 0
    continued: bool = False
    """A cached step: its samples began in an earlier pass, whose gates over a sequence stay."""

    @property
    def seen(self) -> Tensor | None:
        return self.real if self.prompt is None else self.prompt


EVERYTHING = Tokens()


def tokens_of(batch: Batch, *, by_sample: bool) -> Tokens:
    """What a batch's positions are; borders of samples and prompts only if they are wanted, `by_sample`."""
    real_BT = _real(batch)
    if not by_sample:
        return Tokens(real=real_BT)
    is_target_BT = batch.targets != IGNORED
    before_BT = is_target_BT.cumsum(1) - is_target_BT.long()
    at_start_BT = torch.where(batch.position_ids == 0, before_BT, 0).cummax(1).values
    prompt_BT = before_BT == at_start_BT  # no target of this sample at an earlier position
    prompt_BT = prompt_BT if real_BT is None else prompt_BT & real_BT
    if batch.cu_seqlens is not None:
        places = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
        sample_BT = torch.searchsorted(batch.cu_seqlens[1:].long(), places, right=True)[None]
        return Tokens(real=real_BT, prompt=prompt_BT, sample=sample_BT, num_samples=batch.cu_seqlens.numel() - 1)
    if batch.segment_ids is not None:
        most = int(batch.segment_ids.max()) + 1
        rows = torch.arange(len(batch.segment_ids), device=batch.segment_ids.device)[:, None]
        sample_BT = rows * most + batch.segment_ids.clamp(min=0)
        return Tokens(real=real_BT, prompt=prompt_BT, sample=sample_BT, num_samples=len(rows) * most)
    return Tokens(real=real_BT, prompt=prompt_BT)


def _real(batch: Batch) -> Tensor | None:
    """Neither padding nor what fills up a batch without rows or images, which lies at its end."""
    shape, device = batch.input_ids.shape, batch.input_ids.device
    if batch.cu_seqlens is not None:
        if batch.num_tokens == shape[1]:
            return None
        return (torch.arange(shape[1], device=device) < batch.num_tokens)[None]
    mask_BT = batch.attention_mask
    if mask_BT is None:
        if batch.num_tokens == shape.numel():
            return None
        mask_BT = torch.ones(shape, dtype=torch.bool, device=device)
    fillers = int(mask_BT.sum()) - batch.num_tokens  # they are a row of their own, the last one
    if fillers:
        mask_BT = mask_BT & (torch.arange(shape[0], device=device) < shape[0] - 1)[:, None]
    return mask_BT


@dataclass(frozen=True)
class Seen:
    """What one gate made of one forward pass: tensors that can be broadcast to (B, T, E), with gradients."""

    used: Tensor
    """Shares that the experts got."""
    wished: Tensor
    """Shares before all but `top_k` were left out; the same tensor without `top_k`."""
    shape: tuple[int, int]
    """(B, T)."""


class Scene:
    """What all gates of a model know about the forward pass under way."""

    def __init__(self) -> None:
        self.told: Tokens | None = None
        """By who calls the model."""
        self.guessed = EVERYTHING
        """From the arguments of the model's forward pass. Kept until the next one: activations that are formed again
        must find it."""
        self.seen: dict[str, Seen] | None = None
        """What gates made of the pass, by block, while somebody wants to know."""

    @property
    def tokens(self) -> Tokens:
        return self.guessed if self.told is None else self.told

    @contextmanager
    def of(self, tokens: Tokens | None) -> Iterator[None]:
        """Passes inside are over these tokens; None: let each pass be judged by its arguments."""
        before, self.told = self.told, tokens
        try:
            yield
        finally:
            self.told = before

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Passes inside leave no trace."""
        seen, self.seen = self.seen, None
        try:
            with self.of(None):
                yield
        finally:
            self.seen = seen

    def guess(self, _module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """A forward pre-hook of the inner model: padding from a 2-D mask, continuation from a cache that is filled."""
        if self.told is not None:
            return
        given = (options.get("inputs_embeds"), options.get("input_ids"), *args)
        inputs = next((value for value in given if isinstance(value, Tensor)), None)
        mask = options.get("attention_mask")
        real_BT = None
        if inputs is not None and isinstance(mask, Tensor) and mask.ndim == 2:
            real_BT = mask[:, -inputs.shape[1] :].bool()
        cache = options.get("past_key_values")
        self.guessed = Tokens(real=real_BT, continued=cache is not None and cache.get_seq_length() > 0)


class Gate(nn.Module):
    """One block's shares of the experts, from the hidden states that the block gets.

    Parameters, float32 and zero at first, hence equal shares: `weight` (E, D) for `token` and `sequence`, `logits` (E,)
    for `layer`; `log_temperature` () where it is learnt.
    """

    def __init__(self, settings: MoleAdapter, *, width: int, scene: Scene, block: str) -> None:
        super().__init__()
        self.settings, self.block = settings, block
        experts = len(settings.experts)
        if settings.gate == "layer":
            self.logits = nn.Parameter(torch.zeros(experts))
        else:
            self.weight = nn.Parameter(torch.zeros(experts, width))
        if settings.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(settings.temperature)))
        self._scene = scene
        self._held: Tensor | None = None
        self.shares: Tensor | None = None
        """(B, T, E), or to be broadcast to it, for the block's layers. Kept until the next pass: some models form a
        block's activations again without its hooks."""
        self.shape: tuple[int, int] = (0, 0)
        """(B, T) of the block's input."""

    @property
    def temperature(self) -> Tensor | float:
        return self.log_temperature.float().exp() if self.settings.learn_temperature else self.settings.temperature

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shares, float32, that add up to 1 over the last dimension: (B, T, E), or to be broadcast to it."""
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            tokens = self._scene.tokens
            if self.settings.gate == "sequence" and tokens.continued:
                return self._shares_held(hidden_BTD)
            logits = self._lean_logits(hidden_BTD, tokens)
            used, wished = self._shares(logits)
            if self.settings.gate == "sequence":
                self._held = used.detach() if tokens.sample is None else None
                if tokens.sample is not None:
                    index_BT = tokens.sample.to(used.device)
                    used, wished = used[index_BT], wished[index_BT]
        if self._scene.seen is not None:
            self._scene.seen[self.block] = Seen(used, wished, (hidden_BTD.shape[0], hidden_BTD.shape[1]))
        return used

    def constant(self) -> Tensor:
        """(E,) the shares of a gate of kind `layer`."""
        assert self.settings.gate == "layer", "the shares depend on the input"
        with torch.no_grad():
            return _chosen(self.logits / self.temperature, self.settings.top_k)

    def _lean_logits(self, hidden_BTD: Tensor, tokens: Tokens) -> Tensor:
        """Logits that keep no float32 copy of half-precision hidden states for the backward pass."""
        if hidden_BTD.dtype is torch.float32 or not torch.is_grad_enabled():
            return self._logits(hidden_BTD, tokens)
        again = checkpoint(self._logits, hidden_BTD, tokens, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(again, Tensor)
        return again

    def _logits(self, hidden_BTD: Tensor, tokens: Tokens) -> Tensor:
        """(1, 1, E), (B, T, E), or by sample: (B, 1, E) where rows are samples, else (S, E)."""
        if self.settings.gate == "layer":
            return self.logits.float()[None, None]
        hidden = hidden_BTD.float()
        if self.settings.gate == "sequence":
            hidden = pooled(hidden, tokens)
        return nn.functional.linear(hidden, self.weight.float())

    def _shares(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and self.settings.gate_noise:
            # Drawn inside of the block, whose generator is set back where activations are formed again.
            logits = logits + self.settings.gate_noise * torch.randn_like(logits)
        logits = logits / self.temperature
        wished = logits.softmax(-1)
        return (wished if self.settings.top_k is None else _chosen(logits, self.settings.top_k)), wished

    def _shares_held(self, hidden_BTD: Tensor) -> Tensor:
        if self._held is None or len(self._held) != len(hidden_BTD):
            raise RuntimeError(
                "a gate over a sequence goes on from a cache with other rows than its prompts had; compute the rows "
                "whole, or tell which tokens are their prompts (models.mole.telling)"
            )
        return self._held

    def before_block(self, _block: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """The block's forward pre-hook."""
        hidden = args[0] if args else options["hidden_states"]
        self.shape = (hidden.shape[0], hidden.shape[1])
        self.shares = self(hidden)

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model begin without what the last pass left."""
        return {**vars(self), "shares": None, "_held": None}


def pooled(hidden_BTD: Tensor, tokens: Tokens) -> Tensor:
    """Mean over the positions that a gate may see: (B, 1, D) where rows are samples, else (S, D).

    As a product, since scattered additions on a GPU have no fixed order.
    """
    rows, length = hidden_BTD.shape[:2]
    seen_BT = tokens.seen
    seen_BT = hidden_BTD.new_ones(rows, length) if seen_BT is None else seen_BT.to(hidden_BTD)
    if tokens.sample is None:
        return (seen_BT / seen_BT.sum(1, keepdim=True).clamp(min=1))[:, None] @ hidden_BTD
    numbers = torch.arange(tokens.num_samples, device=hidden_BTD.device)[:, None]
    member_SN = (tokens.sample.to(hidden_BTD.device).flatten() == numbers) * seen_BT.flatten()
    return (member_SN / member_SN.sum(1, keepdim=True).clamp(min=1)) @ hidden_BTD.flatten(0, 1)


def _chosen(logits: Tensor, top_k: int | None) -> Tensor:
    """Softmax over the `top_k` largest of the last dimension, zero elsewhere; of equal ones the first."""
    if top_k is None:
        return logits.softmax(-1)
    kept = logits.argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    left_out = torch.ones_like(logits, dtype=torch.bool).scatter(-1, kept, False)
    return logits.masked_fill(left_out, -torch.inf).softmax(-1)

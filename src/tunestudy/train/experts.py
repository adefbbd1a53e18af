"""How many tokens each expert of a mixture gets while training: an expert that starves is seen in expert_log.csv.

Counted where the fused experts are called, with the indices that their router chose: tokens, not padding. Forming
activations again in the backward pass calls them again; a micro-batch counts once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.data.batch import Batch
from tunestudy.train.gates import short_name
from tunestudy.train.world import World

Loads = dict[str, list[int]]
"""Experts' module → tokens by expert."""


class ExpertLoad:
    """The experts of one model. Its methods do nothing for a model without."""

    def __init__(self, model: nn.Module) -> None:
        self._counts: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self._real: Tensor | None = None
        self._counting = False
        for name, module in model.named_modules():
            if name.endswith("experts") and isinstance(getattr(module, "num_experts", None), int):
                self._watch(short_name(name.removeprefix("base_model.model.")), module)

    @property
    def modules(self) -> list[str]:
        return list(self._counts)

    @contextmanager
    def on(self, batch: Batch) -> Iterator[None]:
        """Around a micro-batch's forward and backward pass."""
        self._real = None if batch.attention_mask is None else batch.attention_mask.flatten()
        self._counting = bool(self._counts) and batch.num_tokens > 0
        yield
        for name, seen in self._seen.items():
            self._counts[name] = self._counts[name].to(seen.device) + seen
        self._seen.clear()
        self._counting = False

    def settle(self, world: World, window: Loads) -> Loads:
        """`window` plus what all ranks counted since the last call. All ranks call."""
        if not self._counts:
            return window
        summed = world.all_reduce_sum(
            torch.stack([counts.to(world.device) for counts in self._counts.values()])
        ).tolist()
        for counts in self._counts.values():
            counts.zero_()
        before = window or dict.fromkeys(self._counts, [0] * len(summed[0]))
        new = dict(zip(self._counts, summed, strict=True))
        return {name: [a + b for a, b in zip(before[name], new[name], strict=True)] for name in self._counts}

    def _watch(self, name: str, module: Any) -> None:
        self._counts[name] = torch.zeros(module.num_experts, dtype=torch.int64)

        def see(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if not self._counting:
                return
            tensors = [value for value in (*args, *options.values()) if isinstance(value, Tensor)]
            chosen_TK = next(tensor for tensor in tensors if not tensor.is_floating_point())
            chosen = (chosen_TK if self._real is None else chosen_TK[self._real]).flatten()
            tokens = torch.zeros(module.num_experts, dtype=torch.int64, device=chosen.device)
            self._seen[name] = tokens.scatter_add_(0, chosen, torch.ones_like(chosen))

        module.register_forward_pre_hook(see, with_kwargs=True)


def load_row(window: Mapping[str, list[int]]) -> dict[str, float]:
    """The busiest expert's tokens over the mean, by module and at most (`overall`); `idle`: share without a token."""
    busiest = {name: max(tokens) * len(tokens) / max(1, sum(tokens)) for name, tokens in window.items()}
    counts = [count for tokens in window.values() for count in tokens]
    return {"overall": max(busiest.values()), "idle": counts.count(0) / len(counts), **busiest}

"""bitsandbytes' optimisers: moments in 8 bits, or in memory that the host takes over when a GPU runs short.

Source: Dettmers et al. 2022, arXiv:2110.02861 (8 bits), and 2023, arXiv:2305.14314 (pages).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.stage import OptimiserSettings
from tunestudy.models.quantize import require_bitsandbytes
from tunestudy.train.trainable import Trainable

FEW_BITS = {"adamw_8bit": "AdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}
"""Our name → bitsandbytes' class."""

_MOMENTS = ("state1", "state2")


def make_few_bit_optimizer(
    groups: list[dict[str, object]], trainables: Sequence[Trainable], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """The optimiser of bitsandbytes; tensors below 4,096 values, gates and embeddings keep moments in 32 bits."""
    require_bitsandbytes("optim")
    import bitsandbytes

    optimizer: Any = getattr(bitsandbytes.optim, FEW_BITS[settings.optim])(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
    )
    # Rows of an embedding are met at very different rates, which blocks of 8-bit moments cannot hold.
    exact = [one.parameter for one in trainables if one.is_gate or "embed" in one.name]
    for one in trainables:  # the manager knows parameters by `id`, which one of an earlier optimiser may have had
        optimizer.mng.pid2config.pop(id(one.parameter), None)
    if exact:
        optimizer.mng.override_config(exact, "optim_bits", 32)
    return optimizer  # type: ignore[no-any-return]


def settle_loaded(optimizer: torch.optim.Optimizer) -> None:
    """Bring a loaded state into bitsandbytes' own form: counts as integers, large moments in paged memory again."""
    loaded: Any = optimizer
    for parameter, state in loaded.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = int(state["step"])
        for key in _MOMENTS if loaded.is_paged else ():
            buffer = loaded.get_state_buffer(parameter, dtype=state[key].dtype)
            state[key] = buffer.copy_(state[key])

"""Half precision: which operations run in it, and the loss scaler that keeps fp16 gradients from vanishing."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tunestudy.config.model import ModelConfig
from tunestudy.config.stage import TrainStage


class Precision:
    """Autocast and loss scaling of a stage.

    Frozen weights stored in half precision need autocast too, since trainable ones are float32.
    """

    def __init__(self, settings: TrainStage, model: ModelConfig, device: torch.device) -> None:
        self._device = device.type
        stored = getattr(torch, model.dtype)
        self.dtype = torch.bfloat16 if settings.bf16 else torch.float16 if settings.fp16 else stored
        scaled = self.dtype is torch.float16
        self._scaler = torch.amp.GradScaler(self._device, enabled=True) if scaled else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Around every forward pass, in training and in evaluation."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self._device, dtype=self.dtype)

    @property
    def skips_steps(self) -> bool:
        """Whether gradients that overflow are expected now and then: their step is left out and the scale falls."""
        return self._scaler is not None

    @property
    def loss_scale(self) -> Tensor | float:
        """What the loss is multiplied by before its backward pass."""
        return 1.0 if self._scaler is None else self._scaler.scale(torch.ones((), device=self._device))

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring gradients back to their true size, before they are clipped."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Move the weights, except where a scaled gradient overflowed: then the scale falls and the step is lost.

        Returns whether they moved.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state(self) -> dict[str, Any] | None:
        """The scaler's state for a full checkpoint."""
        return None if self._scaler is None else self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Continue with a saved scaler state; a checkpoint of a run without one changes nothing."""
        if self._scaler is not None and state is not None:
            self._scaler.load_state_dict(dict(state))

"""Gradient statistics per role, for gradient_log.csv."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tunestudy.train.engines import Engine
from tunestudy.train.shards import largest, total_norm
from tunestudy.train.trainable import Trainable

Row = dict[str, float | int | str | None]


class GradientStatistics:
    """Made between clipping and the optimiser's step, asked for `rows` after it."""

    @torch.no_grad()
    def __init__(self, trainables: Sequence[Trainable], engine: Engine) -> None:
        self._trainables = trainables
        self._engine = engine
        self._before = [engine.value(trainable.parameter).clone() for trainable in trainables]
        self._gradients = [engine.gradient(trainable.parameter) for trainable in trainables]

    @torch.no_grad()
    def rows(self) -> list[Row]:
        """Per role: norm and largest entry of the gradient as the optimiser saw it, the weights' norm, ‖Δw‖ ÷ ‖w‖."""
        return [self._row(role) for role in dict.fromkeys(trainable.role for trainable in self._trainables)]

    def _row(self, role: str) -> Row:
        members = [
            (trainable.parameter, before, gradient)
            for trainable, before, gradient in zip(self._trainables, self._before, self._gradients, strict=True)
            if trainable.role == role
        ]
        gradients = [gradient for _, _, gradient in members if gradient is not None]
        param_norm = _norm([before for _, before, _ in members])
        update = _norm([self._engine.value(parameter) - before for parameter, before, _ in members])
        return {
            "role": role,
            "grad_norm": _norm(gradients),
            "grad_max": max((largest(gradient) for gradient in gradients), default=0.0),
            "param_norm": param_norm,
            "update_ratio": update / param_norm if param_norm else None,
        }


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(total_norm(tensors)) if tensors else 0.0

"""The losses of a micro-batch as a training step sums them, without a loop or an engine around."""

from torch import nn

from tunestudy.data.batch import Batch
from tunestudy.train.loss import LossModel, LossSums


def token_losses(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, num_sources: int = 1) -> LossSums:
    """Losses of a micro-batch.

    model: a LossModel, an engine's wrapper around one, or (slower: its head is checked again) a causal model.
    """
    wrapped = model if isinstance(getattr(model, "module", model), LossModel) else LossModel(model)
    sums: LossSums = wrapped(batch, label_smoothing=label_smoothing, num_sources=num_sources)
    return sums

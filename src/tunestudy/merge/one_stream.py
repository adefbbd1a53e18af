"""One stream of random numbers for a whole model, as other programs draw them: tensor by tensor, in one order."""

import torch

draws = torch.Generator()


def begin(seed: int) -> None:
    """Start it: before the first tensor of a model."""
    draws.manual_seed(seed)

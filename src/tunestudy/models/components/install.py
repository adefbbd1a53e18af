"""Adding components to a model that has none: fresh weights, the same whatever ran before."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.config.components import VisionComponents
from tunestudy.config.errors import StudyError, at
from tunestudy.models.components.parts import KEY, add_parts, check_fits, explicit
from tunestudy.models.decoder import base_model_of
from tunestudy.models.draws import generator_of

SPREAD_OF_PLACES = 0.02
"""Deviation of position embeddings, as in ViTs and in Honeybee."""


def install(model: Any, settings: VisionComponents, *, seed: int) -> None:
    """Add components to an InternVL of transformers, in place; new weights are float32, drawn by `seed` and name.

    With rope2d behind its gate and with a pyramid the model computes exactly what it did; the C-Abstractor takes the
    projector's place and starts at random. Raises StudyError for another model, or one that has no place for them.
    """
    from transformers import InternVLForConditionalGeneration, InternVLModel

    from tunestudy.models.components.model import InternVLWithComponents

    if not isinstance(model, InternVLForConditionalGeneration | InternVLModel):
        raise StudyError(
            at(KEY),
            f"{', '.join(settings.named)} can be added to InternVL as transformers has it (model_type internvl, the "
            f"hub's …-hf checkpoints), not to {type(model).__name__}",
        )
    assert getattr(model, "components", None) is None, "components are there already"
    check_fits(model.config, settings)
    settings = explicit(settings, model.config)
    device = next(model.parameters()).device
    with torch.device("meta"):
        added = add_parts(model, settings)
    for module in added:
        module.to(torch.float32).to_empty(device=device).train(model.training)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in added:
        begin(module, names, seed)
    model.components = settings
    if isinstance(model, InternVLForConditionalGeneration):
        model.__class__ = InternVLWithComponents


def has_components(model: Any, wanted: VisionComponents, stage: str, *, below_adapter: bool) -> bool:
    """Whether a model has what `stage` names. StudyError where it has others, or an adapter that learnt without."""
    base = base_model_of(model)
    present, where = getattr(base, "components", None), at(f"stages.{stage}.{KEY}")
    if present is None and below_adapter:
        cure = "add them in the first stage, or use init: merge_then_new"
        raise StudyError(where, f"cannot be added below an adapter that was trained without them; {cure}")
    if present is not None and present != explicit(wanted, base.config):
        raise StudyError(
            where,
            f"the stage's model has other components already ({present.model_dump(exclude_none=True)}); name the same, "
            "or leave them out: a model keeps its components",
        )
    return present is not None


@torch.no_grad()
def begin(module: nn.Module, names: dict[int, str], seed: int) -> None:
    """Fill a component's parameters; `names`: id of a parameter → its name in the model.

    Weights of maps are uniform within ±1/√inputs, as torch's own start, position embeddings normal; biases and what a
    component names in `at_zero` are 0, norms 1.
    """
    zero = getattr(module, "at_zero", ())
    norms = {id(inner.weight) for inner in module.modules() if isinstance(inner, nn.LayerNorm)}
    for name, parameter in module.named_parameters():
        random = generator_of(names[id(parameter)], seed)
        if id(parameter) in norms:
            parameter.fill_(1)
        elif name in zero or parameter.ndim == 1:
            parameter.zero_()
        elif name == "pos_emb":
            parameter.copy_(_truncated_normal(parameter.shape, SPREAD_OF_PLACES, random))
        else:
            bound = 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=random))


def _truncated_normal(shape: torch.Size, spread: float, random: torch.Generator) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=spread, generator=random)

"""A mixture of LoRA experts as an adapter: which layers get it, what its experts begin as, and what learns.

The mixture itself is `models/mole.py`; where experts' factors come from is `adapters/experts.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.adapters.targets import target_names
from tunestudy.config.adapter import RESERVED, MoleAdapter
from tunestudy.config.errors import StudyError, at
from tunestudy.config.model import Role
from tunestudy.models.decoder import base_model_of
from tunestudy.models.mole import mole_of, put_mole
from tunestudy.models.roles import check_roles, hold_trainable_in_float32

Factors = Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]
"""Expert → layer's name → A (r, inputs) and B (outputs, r), the scale inside B."""


def mole_targets(model: Any, adapter: MoleAdapter) -> list[str]:
    """Names of the layers that the experts go on, in the model's order."""
    wished: list[Role] = [adapter.target] if isinstance(adapter.target, str) else list(adapter.target or ())
    check_roles(model, wished, "adapter.target")
    return target_names(model, adapter.target_modules, only=wished)


def install_mole(model: Any, adapter: MoleAdapter, factors: Factors) -> Any:
    """The model with the experts on it, all shares equal; the gates learn, the experts if they may, nothing else.

    An expert without factors for a layer adds nothing there; a layer for which none has any is left as it is. Nothing
    is drawn. Raises StudyError for experts that do not fit the model.
    """
    names = mole_targets(model, adapter)
    _check_experts(adapter, factors, names)
    known = [{} if adapter.experts[name] is None else factors[name] for name in adapter.experts]
    ranks = {layer: [len(of[layer][0]) if layer in of else 0 for of in known] for layer in names}
    ranks = {layer: of_experts for layer, of_experts in ranks.items() if any(of_experts)}
    for layer in ranks:
        _check_shapes(model.get_submodule(layer), layer, adapter, known)
    mole = put_mole(model, adapter, ranks)
    for layer, with_experts in mole.layers.items():
        with_experts.put([of.get(layer) for of in known])
    return let_learn(model, adapter)


def let_learn(model: Any, adapter: MoleAdapter) -> Any:
    """A model with a mixture, installed or loaded, as `adapter` trains it on: what learns, dropout, noise."""
    mole = mole_of(model)
    assert mole is not None
    mole.adopt(adapter)
    base_model_of(model).requires_grad_(False)
    for gate in mole.gates.values():
        gate.requires_grad_(True)
    for layer in mole.layers.values():
        layer.lora_A.requires_grad_(adapter.train_experts)
        layer.lora_B.requires_grad_(adapter.train_experts)
        layer.lora_dropout = nn.Dropout(adapter.lora_dropout) if adapter.lora_dropout else nn.Identity()
        layer.lora_dropout.train(layer.training)
    hold_trainable_in_float32(model)
    return model


def num_parameters(adapter: MoleAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module, its block's gate left out, where every expert has rank `lora_r`."""
    return len(adapter.inputs) * adapter.lora_r * (inputs + outputs) if adapter.train_experts else 0


def _check_experts(adapter: MoleAdapter, factors: Factors, names: list[str]) -> None:
    for expert in RESERVED & adapter.experts.keys():
        raise StudyError(at(f"adapter.experts.{expert}"), "is the name of another column of mole_log.csv; use another")
    for expert in adapter.inputs:
        place = at(f"adapter.experts.{expert}")
        of_expert = factors.get(expert, {})
        if not of_expert.keys() & set(names):
            raise StudyError(place, "has factors for none of the adapted layers; null is an expert that adds nothing")
        if extra := sorted(of_expert.keys() - set(names)):
            raise StudyError(
                place,
                f"has factors for {len(extra)} layers that target_modules leaves out, such as {extra[0]}; name them "
                "too, or the expert would be only a part of what it was",
            )


def _check_shapes(
    base: Any, layer: str, adapter: MoleAdapter, known: list[Mapping[str, tuple[Tensor, Tensor]]]
) -> None:
    for expert, of_expert in zip(adapter.experts, known, strict=True):
        if layer not in of_expert:
            continue
        down, up = of_expert[layer]
        fits = isinstance(base, nn.Linear) and (up.shape[0], down.shape[1]) == (base.out_features, base.in_features)
        if not fits or up.shape[1] != down.shape[0]:
            raise StudyError(
                at(f"adapter.experts.{expert}"),
                f"its factors for {layer} are {tuple(down.shape)} and {tuple(up.shape)}, which do not fit that layer",
            )
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise StudyError(
                at(f"adapter.experts.{expert}"), f"its factors for {layer} hold values that are not finite"
            )

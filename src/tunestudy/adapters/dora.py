"""DoRA, y = m·(W + s·B A)x/‖W + s·B A‖ by rows, as fast as LoRA. Source: Liu et al. 2024, arXiv:2402.09353.

Parameters, names and files are those of PEFT's DoRA (`use_dora`): only the way to compute is ours, put on a model by
`quicken`, three lines outside of our trainer:

    model = get_peft_model(model, LoraConfig(use_dora=True, target_modules="all-linear"))   # or from_pretrained
    from tunestudy.adapters.dora import quicken
    quicken(model)

A layer with a `lora_gate` (ParameterDict, adapter → (R,)) gets it inside the direction: that is SDoRA.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Embedding, _ConvNd
from peft.tuners.lora.variants import DoraLinearVariant
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from tunestudy.adapters import lora
from tunestudy.adapters.direction import Direction, directed, row_norms
from tunestudy.adapters.direction_cache import DirectionCache
from tunestudy.adapters.gates import delta
from tunestudy.config.adapter import DoraAdapter, DoraOptions
from tunestudy.config.errors import StudyError, at

DropoutOn = Literal["input", "adapter"]


def peft_config(adapter: DoraOptions, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any:
    """PEFT's configuration of the same adapter; `dropout_on` rides along unsaved, for `initialise`."""
    config = lora.low_rank_config(
        adapter, target_modules=target_modules, modules_to_save=modules_to_save, use_dora=True
    )
    config.dropout_on = adapter.dropout_on
    return config


def initialise(model: Any, adapter_name: str, seed: int) -> None:
    """A and B as LoRA's, m the norms of W: the model is unchanged at first."""
    lora.initialise(model, adapter_name, seed)
    quicken(model, adapter_name, dropout_on=getattr(model.peft_config[adapter_name], "dropout_on", "input"))
    for layer in direction_layers(model, adapter_name):
        magnitude = layer.lora_magnitude_vector[adapter_name].weight
        magnitude.data.copy_(current_direction(layer, adapter_name).norm)


def num_parameters(adapter: DoraAdapter, inputs: int, outputs: int) -> int:
    """Numbers that learn on one linear module: A, B and a magnitude per output."""
    return adapter.lora_r * (inputs + outputs) + outputs


def quicken(model: Any, adapter_name: str | None = None, *, dropout_on: DropoutOn = "input") -> None:
    """Let the DoRA adapters (or one of them) on `model`'s linear layers compute our way.

    Embeddings and convolutions keep PEFT's. Combining DoRA adapters with `add_weighted_adapter` raises from now on:
    PEFT would combine A and B and start the magnitudes anew. `dropout_on`: see config/adapter.py.
    """
    for layer in model.modules():
        if not isinstance(layer, LoraLayer) or isinstance(layer, Embedding | _ConvNd):
            continue
        for name, variant in layer.lora_variant.items():
            if adapter_name in (None, name) and isinstance(variant, DoraLinearVariant):
                layer.lora_variant[name] = DirectionVariant(dropout_on)
        if layer.lora_variant and set(layer.lora_A) == set(direction_names(layer)):
            layer.cast_input_dtype_enabled = False  # PEFT would keep an fp32 copy of x per layer
    _refuse_weighted(model)


def direction_names(layer: Any) -> list[str]:
    """The adapters of a layer that compute our way."""
    return [name for name, variant in layer.lora_variant.items() if isinstance(variant, DirectionVariant)]


def direction_layers(model: Any, adapter_name: str) -> list[Any]:
    """The layers on which the adapter computes our way, in the model's order."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return [layer for layer in layers if adapter_name in direction_names(layer)]


def forget(model: Any) -> None:
    """Drop cached directions: for whoever writes to parameters on an accelerator through `.data`."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name in direction_names(layer):
                layer._caches.pop(_cache_key(name), None)


@dataclass(frozen=True)
class Weight:
    """A base layer's weight as (O, I): `stored` is what may change, `dense()` its values."""

    layer: nn.Module
    transposed: bool

    @property
    def stored(self) -> Tensor:
        assert isinstance(self.layer.weight, Tensor)
        return self.layer.weight

    def dense(self) -> Tensor:
        weight: Tensor = dequantize_module_weight(self.layer).detach()
        return weight.T if self.transposed else weight


def gate_of(layer: Any, adapter_name: str) -> Tensor | None:
    """(R,) the gate of an SDoRA adapter, None for DoRA."""
    gates = getattr(layer, "lora_gate", None)
    return gates[adapter_name] if gates is not None and adapter_name in gates else None


def current_direction(layer: Any, adapter_name: str) -> Direction:
    """Row norms of W + s·B diag(g) A, and what follows from them, as they are now."""
    parts = _Parts.of(layer, adapter_name)
    return _direction(layer, adapter_name, parts)


@dataclass(frozen=True)
class _Parts:
    """An adapter's tensors on one layer."""

    down: Tensor
    up: Tensor
    magnitude: Tensor
    gate: Tensor | None

    @staticmethod
    def of(layer: Any, name: str) -> "_Parts":
        magnitude = layer.lora_magnitude_vector[name].weight
        return _Parts(layer.lora_A[name].weight, layer.lora_B[name].weight, magnitude, gate_of(layer, name))


def _direction(layer: Any, adapter_name: str, parts: _Parts) -> Direction:
    cache: DirectionCache = layer._caches.setdefault(_cache_key(adapter_name), DirectionCache())
    weight = Weight(layer.get_base_layer(), layer.fan_in_fan_out)
    return cache.direction(weight, parts.down, parts.up, parts.magnitude, parts.gate, layer.scaling[adapter_name])


def _cache_key(adapter_name: str) -> str:
    return f"{adapter_name}-direction"


class DirectionVariant(DoraLinearVariant):  # type: ignore[misc]
    """PEFT's DoRA on a linear layer, plain or few-bit, computed from `direction.py`; with a gate it is SDoRA."""

    def __init__(self, dropout_on: DropoutOn = "input") -> None:
        self.dropout_on = dropout_on

    @staticmethod
    def init(module: Any, adapter_name: str, **_: Any) -> None:
        """Add the magnitude, ‖W‖ by rows (B is zero at first), without PEFT's dense temporaries."""
        if not module.lora_magnitude_vector:
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_magnitude_vector")
        down, up = (factors[adapter_name].weight.detach() for factors in (module.lora_A, module.lora_B))
        weight = Weight(module.get_base_layer(), module.fan_in_fan_out).dense()
        norm = row_norms(weight, down, up, scale=module.scaling[adapter_name], gate_R=gate_of(module, adapter_name))
        magnitude = DoraLinearLayer(fan_in_fan_out=module.fan_in_fan_out)
        magnitude.weight = nn.Parameter(norm.to(up.dtype))
        module.lora_magnitude_vector[adapter_name] = magnitude

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        dropout = module.lora_dropout[active_adapter]
        drops = module.training and not isinstance(dropout, nn.Identity)
        dropped = dropout(x) if drops else x
        if not drops or self.dropout_on == "adapter":
            only_ours = _is_only_ours(module)
            weight = None if drops or not only_ours else _frozen_weight(module.get_base_layer())
            return _directed(module, active_adapter, dropped, result, weight=weight, overwrite=only_ours)
        base_layer = module.get_base_layer()
        dropped_result: Tensor = base_layer(dropped.to(result.dtype))
        return result + (_directed(module, active_adapter, dropped, dropped_result) - dropped_result)

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """m/n·(W + s·B diag(g) A) in the weight's dtype."""
        with module._unmerged_base_weight(safe_merge=True) as base_weight:
            factor = _merge_factor(module, active_adapter, base_weight)
        weight: Tensor = dequantize_module_weight(module.get_base_layer()).detach()  # rebuilt when the context ended
        lost = factor.flatten() == 0
        kept = (weight.T if module.fan_in_fan_out else weight)[lost].clone()
        module._cache_store(f"{active_adapter}-merged", (factor, lost, kept))
        return (factor * (weight + delta(module, active_adapter))).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        orig_weight.data = DirectionVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Divide by the factor and take ΔW out; rows that the factor made zero were kept."""
        factor: Tensor
        factor, lost, kept = module._cache_pop(f"{active_adapter}-merged")
        weight = orig_weight.detach() / factor - delta(module, active_adapter)
        rows = weight.T if module.fan_in_fan_out else weight
        rows[lost] = kept.to(rows.dtype)
        return weight.to(orig_weight.dtype)


def _is_only_ours(layer: Any) -> bool:
    """Whether nobody but the layer sees the base layer's result, or its gradient."""
    base = layer.get_base_layer()
    watched = base._forward_hooks or base._backward_hooks or base._backward_pre_hooks
    return type(base) is nn.Linear and not watched and len(layer.active_adapters) == 1


def _frozen_weight(base_layer: nn.Linear) -> Tensor | None:
    """(O, I) fp32, if the layer's part in the backward pass is a product with it and nothing else."""
    frozen = not any(parameter.requires_grad for parameter in base_layer.parameters())
    return base_layer.weight if frozen and base_layer.weight.dtype == torch.float32 else None


def _directed(
    layer: Any,
    adapter_name: str,
    x: Tensor,
    result: Tensor,
    *,
    weight: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    parts = _Parts.of(layer, adapter_name)
    return directed(
        result,
        x,
        _direction(layer, adapter_name, parts),
        bias_O=getattr(layer.get_base_layer(), "bias", None),
        down_RI=parts.down,
        up_OR=parts.up,
        magnitude_O=parts.magnitude,
        gate_R=parts.gate,
        weight_OI=weight,
        overwrite=overwrite,
    )


def _merge_factor(layer: Any, adapter_name: str, base_weight: Tensor) -> Tensor:
    """m/n as a column, or as a row for a transposed weight; 0 where n = 0."""
    norm = row_norms(
        base_weight.T if layer.fan_in_fan_out else base_weight,
        layer.lora_A[adapter_name].weight,
        layer.lora_B[adapter_name].weight,
        scale=layer.scaling[adapter_name],
        gate_R=gate_of(layer, adapter_name),
    )
    magnitude = layer.lora_magnitude_vector[adapter_name].weight.detach().float()
    factor: Tensor = (magnitude / norm).masked_fill_(norm == 0, 0)
    return factor.unsqueeze(0 if layer.fan_in_fan_out else 1)


def _refuse_weighted(model: Any) -> None:
    """Make PEFT's `add_weighted_adapter` refuse DoRA adapters on this model."""
    tuner: Any = getattr(model, "base_model", None)
    if hasattr(tuner, "add_weighted_adapter") and not isinstance(vars(tuner).get("add_weighted_adapter"), partial):
        tuner.add_weighted_adapter = partial(_checked_combination, tuner)


def _checked_combination(tuner: Any, adapters: list[str], *args: Any, **kwargs: Any) -> None:
    if kinds := [name for name in adapters if name in tuner.peft_config and tuner.peft_config[name].use_dora]:
        raise StudyError(
            at("add_weighted_adapter"),
            f"{', '.join(kinds)} is DoRA: PEFT would combine A and B only and start the magnitudes anew, so the result "
            "would be silently wrong; merge each adapter into its base and combine the full weights",
        )
    type(tuner).add_weighted_adapter(tuner, adapters, *args, **kwargs)

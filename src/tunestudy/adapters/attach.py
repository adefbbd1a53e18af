"""Putting an adapter on a model: the same weights on every rank, only the adapter and named roles learn."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import nn

from tunestudy.adapters.targets import check_parameters, check_patterns, check_ranks, shortest, target_names
from tunestudy.config.adapter import AnyAdapter, DoraOptions, LowRankOptions
from tunestudy.config.errors import StudyError, at
from tunestudy.config.model import Role
from tunestudy.config.stage import TrainStage
from tunestudy.models.loaded import LoadedModel
from tunestudy.models.roles import check_roles, hold_trainable_in_float32, modules_of

NAME = "default"
"""The adapter that learns; PEFT publishes it without a name."""


class AdapterKind(Protocol):
    """What a module of this room offers."""

    def peft_config(self, adapter: Any, *, target_modules: list[str], modules_to_save: list[str] | None) -> Any: ...

    def initialise(self, model: Any, adapter_name: str, seed: int) -> None: ...

    def num_parameters(self, adapter: Any, inputs: int, outputs: int) -> int: ...


def kind_of(adapter: AnyAdapter) -> AdapterKind:
    """The module of an adapter's `type`."""
    return cast(AdapterKind, import_module(f"tunestudy.adapters.{adapter.type}"))


def attach(
    model: Any, adapter: AnyAdapter, train: Sequence[Role] | Literal["all", "none"] = "none", *, seed: int | None = None
) -> Any:
    """The model as a `PeftModel` whose trainable weights are the new adapter and, in full, the roles in `train`.

    On a model that has a frozen adapter (`init: stack`) the new one is added and both are active. Weights depend on
    `seed` (default: torch's) and each tensor's name alone. Fully trained modules become PEFT's `modules_to_save`, so
    that stock PEFT loads them with the adapter. Raises StudyError for unknown roles and modules.
    """
    from peft import PeftModel, get_peft_model

    roles = _roles_beside(model, train)
    wished: list[Role] = [adapter.target] if isinstance(adapter.target, str) else list(adapter.target or ())
    check_roles(model, wished, "adapter.target")
    names = target_names(model, adapter.target_modules, without=roles, only=wished)
    if isinstance(adapter, LowRankOptions):
        check_patterns(names, adapter)
    check_parameters(model, getattr(adapter, "target_parameters", ()))
    kind = kind_of(adapter)
    config = kind.peft_config(
        adapter, target_modules=shortest(names, model), modules_to_save=_modules_of_roles(model, roles) or None
    )
    if isinstance(model, PeftModel):
        below = list(model.peft_config)
        model.add_adapter(NAME, config)
        model.base_model.set_adapter([*below, NAME])
        _freeze_below(model, below)
        attached: Any = model
    else:
        attached = get_peft_model(model, config, adapter_name=NAME)
    _check_attached(attached, names, getattr(adapter, "target_parameters", ()))
    check_ranks(attached)
    kind.initialise(attached, NAME, torch.initial_seed() if seed is None else seed)
    hold_trainable_in_float32(attached)
    return attached


def as_trained(loaded: LoadedModel, settings: TrainStage, *, seed: int) -> Any:
    """What a stage trains: the model that it starts from with a new adapter on it, or with its parent's, to go on."""
    if settings.adapter is None:
        return loaded.model
    if loaded.continues_adapter:
        return go_on(loaded.model, settings.adapter, loaded.gated)
    return attach(loaded.model, settings.adapter, settings.train or "none", seed=seed)


def go_on(model: Any, adapter: AnyAdapter, gated: Path | None = None) -> Any:
    """A loaded adapter, to be trained on or scored, as a new one would compute; PEFT loads its own, slow DoRA.

    `gated` is the raw form of an adapter with gates, and `model` its base then. Dropout is what `adapter` says.
    """
    if gated is not None:
        model = import_module("tunestudy.adapters.raw").load(model, gated)
        hold_trainable_in_float32(model)
    if isinstance(adapter, DoraOptions):
        kind: Any = import_module("tunestudy.adapters.dora")
        kind.quicken(model, NAME, dropout_on=adapter.dropout_on)
    for module in model.modules():
        dropouts = getattr(module, "lora_dropout", None)
        if isinstance(dropouts, nn.ModuleDict) and NAME in dropouts:
            dropouts[NAME] = nn.Dropout(adapter.lora_dropout) if adapter.lora_dropout else nn.Identity()
    return model


def _roles_beside(model: Any, train: Sequence[Role] | Literal["all", "none"]) -> list[Role]:
    """The roles trained in full beside the adapter."""
    if train == "all":
        raise StudyError(at("train"), "all leaves no module for the adapter; name roles, or leave the adapter out")
    roles: list[Role] = [] if train == "none" else list(train)
    check_roles(model, roles, "train")
    return roles


def _modules_of_roles(model: Any, roles: Sequence[Role]) -> list[str]:
    """Full names of the modules to copy and train; PEFT takes no containers, so their members are named."""
    parts = modules_of(model)
    tops = [name for role in roles for name in parts[role]]
    return [name.removeprefix("base_model.model.") for top in tops for name in _without_containers(model, top)]


def _without_containers(model: Any, name: str) -> list[str]:
    module = model.get_submodule(name)
    if not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential):
        return [name]
    return [inner for child, _ in module.named_children() for inner in _without_containers(model, f"{name}.{child}")]


def _check_attached(model: Any, names: Sequence[str], parameters: Sequence[str]) -> None:
    """Refuse an adapter that sits elsewhere than asked: PEFT moves names like gate_proj to a MoE's fused experts."""
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {
        name.removeprefix("base_model.model.")
        for name, m in model.named_modules()
        if isinstance(m, BaseTunerLayer) and not (parameters and isinstance(m, ParamWrapper))
    }
    absent, extra = sorted(set(names) - layers), sorted(layers - set(names))
    if absent or extra:
        kept = sorted({name.rpartition(".")[2] for name in set(names) & layers})
        raise StudyError(
            at("adapter.target_modules"),
            f"PEFT would leave out {len(absent)} of the modules (such as {', '.join(absent[:1]) or '-'}) and adapt "
            f"{', '.join(extra[:1]) or 'nothing'} instead, because this model fuses its experts; name modules outside "
            f"of them, such as {', '.join(kept) or 'those of the attention'}",
        )


def _freeze_below(model: Any, adapters: Sequence[str]) -> None:
    for name, parameter in model.named_parameters():
        if any(f".{adapter}." in name for adapter in adapters):
            parameter.requires_grad_(False)

"""Role → modules: which part of a model a parameter belongs to, freezing by role, and the table shown before step 1.

A role is read off the names that transformers 5 gives to modules, for text models and for the vision-language
wrappers alike; Qwen-VL keeps its projector inside `visual`, so projector names are looked at first.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from tunestudy.config.errors import StudyError, at
from tunestudy.config.model import Role
from tunestudy.models.quantize import num_values

MARKS: dict[Role, frozenset[str]] = {
    "world_encoder": frozenset({"world_encoder"}),
    "world_projector": frozenset({"world_projector", "world_borders"}),
    "projector": frozenset(
        {"multi_modal_projector", "mm_projector", "mlp1", "merger", "deepstack_merger_list", "connector", "aligner"}
    ),
    "vision_tower": frozenset({"visual", "vision_tower", "vision_model"}),
    "router": frozenset({"router", "gate"}),
    "lm_head": frozenset({"lm_head", "embed_out"}),
}
"""Role → names of modules on the way to a parameter, in order of precedence; all else is the language model."""

Train = Sequence[Role] | Literal["all", "none"]


def role_of(parameter_name: str) -> Role:
    """The role of a parameter by its dotted name; wrappers (PEFT, DDP, checkpointing) do not matter."""
    parts = set(parameter_name.split("."))
    return next((role for role, marks in MARKS.items() if parts & marks), "language_model")


def modules_of(model: nn.Module) -> dict[Role, list[str]]:
    """Role → the topmost names that hold this role's parameters and no other's, in the model's order.

    A parameter that hangs directly in a mixed module is listed by its own name. A tied weight counts once, where the
    model names it first: a tied output head is no role.
    """
    found: dict[Role, list[str]] = {}
    counted = {name for name, _ in model.named_parameters()}

    def walk(name: str, module: nn.Module) -> None:
        parameters = counted & {parameter for parameter, _ in module.named_parameters(prefix=name)}
        roles = {role_of(parameter) for parameter in parameters}
        if len(roles) == 1 and name:
            found.setdefault(roles.pop(), []).append(name)
            return
        for parameter, _ in module.named_parameters(prefix=name, recurse=False):
            if parameter in counted:
                found.setdefault(role_of(parameter), []).append(parameter)
        for child, submodule in module.named_children():
            walk(f"{name}.{child}" if name else child, submodule)

    walk("", model)
    return found


def check_roles(model: nn.Module, roles: Iterable[Role], key: str) -> None:
    """A role that the model has no parameters of is an error at `key`."""
    present = modules_of(model)
    for role in roles:
        if role in present:
            continue
        tied = role == "lm_head" and is_tied(model)
        reason = "shares its weight with the input embedding (tie_word_embeddings), which is part of language_model"
        raise StudyError(
            at(key),
            f"{role} {reason if tied else 'is no part of this model'}; it has: {', '.join(present)}",
        )


def is_tied(model: Any) -> bool:
    """Whether the output head is the input embedding."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embedding is not None and head.weight is embedding.weight


def set_trainable(model: nn.Module, train: Train, *, key: str = "train") -> None:
    """Let exactly the parameters of these roles learn, held in float32, and freeze the rest.

    `all` leaves the routers of a mixture of experts as they are: trained along, they send tokens to few experts.
    Not for a model with an adapter: `adapters.attach` does the same for that.
    """
    roles = set(modules_of(model)) - {"router"} if train == "all" else set() if train == "none" else set(train)
    check_roles(model, roles, key)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(role_of(name) in roles)
    hold_trainable_in_float32(model)


def hold_trainable_in_float32(model: nn.Module) -> None:
    """A step of a small learning rate is lost in half precision, so what learns is held in full."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def is_gate(name: str) -> bool:
    """Whether a parameter is the gates of a module's sparse adapter."""
    return ".lora_gate." in name


def is_mixture_gate(name: str) -> bool:
    """Whether a parameter is of a gate over LoRA experts."""
    return ".lora_router." in name


def is_mixture_parameter(name: str) -> bool:
    """Whether a parameter is of a mixture of LoRA experts: of its gates, or the stacked factors of its experts."""
    return is_mixture_gate(name) or name.endswith((".lora_A", ".lora_B"))


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter was added by an adapter (a `modules_to_save` copy is a trained role, not an adapter)."""
    return ".lora_" in name


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, not to biases, norms and other vectors."""
    return parameter.ndim >= 2


def trainable_table(
    model: nn.Module, *, learning_rate: float, learning_rates: Mapping[Role, float], adapter: str | None
) -> list[dict[str, Any]]:
    """Per role: parameters (without an adapter's), how many learn, the rate, the kind of adapter."""
    table: dict[Role, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        role = role_of(name)
        row = table.setdefault(
            role, {"role": role, "params": 0, "trainable": 0, "learning_rate": None, "adapter": None}
        )
        if parameter.requires_grad:
            row["trainable"] += num_values(parameter)
            row["learning_rate"] = learning_rates.get(role, learning_rate)
        if is_adapter_parameter(name):
            row["adapter"] = adapter
        elif ".original_module." not in name:  # its copy in modules_to_save is counted
            row["params"] += num_values(parameter)
    return list(table.values())

"""Which modules an adapter goes on: every linear one, those with given endings, or those a regular expression names."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from torch import nn

from tunestudy.config.adapter import LowRankOptions
from tunestudy.config.errors import StudyError, at
from tunestudy.config.model import Role
from tunestudy.models.roles import role_of

Targets = Literal["all-linear"] | Sequence[str] | str


def target_names(model: Any, wanted: Targets, *, without: Iterable[Role] = (), only: Iterable[Role] = ()) -> list[str]:
    """Full names of the modules that get an adapter, in the model's order.

    Modules of the roles in `without` are trained in full and get none; if `only` names roles, no others do.
    `all-linear` leaves the output head out.
    Raises StudyError, with the nearest names, for an ending that no module has.
    """
    trained, wished = set(without), set(only)
    modules = {
        name: module
        for name, module in adaptable_modules(model).items()
        if role_of(name) not in trained and (not wished or role_of(name) in wished)
    }
    if wanted == "all-linear":
        head = model.get_output_embeddings()
        names = [name for name, m in modules.items() if m is not head and not isinstance(m, nn.Embedding)]
    elif isinstance(wanted, str):
        names = [name for name in modules if re.fullmatch(wanted, name)]
    else:
        for ending in wanted:
            if not any(_ends(name, ending) for name in modules):
                raise _no_match(f"no module is named {ending!r}", ending, modules)
        names = [name for name in modules if any(_ends(name, ending) for ending in wanted)]
    if not names:
        beside = f" outside of {', '.join(sorted(trained))}, which is trained in full" if trained else ""
        beside += f" in {', '.join(sorted(wished))}" if wished else ""
        raise _no_match(f"{wanted!r} names no module{beside}", str(wanted), modules)
    return names


def check_patterns(names: Sequence[str], adapter: LowRankOptions) -> None:
    """A key of `rank_pattern` or `alpha_pattern` that fits no adapted module is a mistake."""
    for option in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(adapter, option):
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                endings = sorted({name.rpartition(".")[2] for name in names})
                near = get_close_matches(pattern, endings, 3) or endings
                raise StudyError(
                    at(f"adapter.{option}.{pattern}"), f"fits no adapted module; there are: {', '.join(near)}"
                )


def check_parameters(model: Any, endings: Sequence[str]) -> None:
    """An item of `target_parameters` that no parameter's name ends with is a mistake."""
    names = [name for name, parameter in model.named_parameters() if parameter.ndim == 3 and ".lora_" not in name]
    for ending in endings:
        if not any(_ends(name, ending) for name in names):
            fused = sorted({".".join(name.split(".")[-3:]) for name in names})
            known = f"; there are: {', '.join(fused)}" if fused else "; this model has no fused experts"
            raise StudyError(at("adapter.target_parameters"), f"no parameter ends with {ending!r}{known}")


def check_ranks(model: Any) -> None:
    """A rank above a matrix's own rank adds nothing but parameters."""
    for name, layer in model.named_modules():
        for adapter_name, rank in getattr(layer, "r", {}).items() if hasattr(layer, "lora_A") else ():
            if adapter_name not in layer.lora_A or not isinstance(layer.get_base_layer(), nn.Linear):
                continue
            base = layer.get_base_layer()
            smaller = min(base.in_features, base.out_features)
            if rank > smaller:
                raise StudyError(
                    at("adapter.lora_r"),
                    f"rank {rank} is larger than {name.removeprefix('base_model.model.')} allows, a matrix of "
                    f"{base.out_features} × {base.in_features}: at most {smaller}; lower it there with rank_pattern",
                )


def adaptable_modules(model: Any) -> dict[str, nn.Module]:
    """Name → linear or embedding module of the base model; below an adapter, the module that it wraps."""
    from transformers.pytorch_utils import Conv1D

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D) and ".lora_" not in name:
            found[name.removeprefix("base_model.model.").removesuffix(".base_layer")] = module
    return found


def shortest(names: Sequence[str], model: Any) -> list[str]:
    """The last parts of the names if they name exactly these modules, otherwise the names in full.

    Modules that no adapter fits count too: a layer called 0 in a container, and the container's own first layer.
    """
    endings = sorted({name.rpartition(".")[2] for name in names})
    known = (*adaptable_modules(model), *_other_modules(model))
    named = [name for name in known if any(_ends(name, ending) for ending in endings)]
    return endings if set(named) == set(names) else list(names)


def _other_modules(model: Any) -> list[str]:
    """Names of modules that are neither adaptable nor part of an adapter's wrapping."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    adaptable = adaptable_modules(model)
    names = [name for name, _ in model.named_modules() if not name.startswith(tuple(wrapped))]
    plain = {name.removeprefix("base_model.model.") for name in names}
    return sorted(plain - adaptable.keys())


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _no_match(problem: str, wanted: str, modules: Iterable[str]) -> StudyError:
    endings = sorted({name.rpartition(".")[2] for name in modules})
    near = get_close_matches(wanted, endings, 3) or endings
    return StudyError(at("adapter.target_modules"), f"{problem}; there are: {', '.join(near)}")

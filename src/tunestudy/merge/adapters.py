"""`into: adapter`: LoRAs of one base become one LoRA that plain PEFT loads.

A weighted sum of adapters is exact: Σ cᵢ Bᵢ Aᵢ = [c₁B₁ … cₙBₙ] [A₁; …; Aₙ], of rank Σ rᵢ. What TIES and DARE make of
the differences Bᵢ Aᵢ has no low rank, and is cut to `result_rank`; the share of its squared norm that is left, its
energy, is told for every module. With `compat: peft` the methods work on A and B apart, as PEFT's
`add_weighted_adapter` does: then cross terms Bᵢ Aⱼ appear that no adapter had.
Sources: Hu et al. 2021, arXiv:2106.09685; PEFT 0.21's model merging guide.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunestudy.adapters.low_rank import cut
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.merge import SPARSE, MergeStage
from tunestudy.merge import compat_peft, one_stream
from tunestudy.merge.adapter_files import CHOICE, FOLD, AdapterFiles, Factors, opened_together, sits_alike
from tunestudy.merge.whole import merge_differences
from tunestudy.models.roles import role_of
from tunestudy.models.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS

LITTLE = 0.9
"""Energy below which a module is warned of."""


@dataclass(frozen=True)
class AdapterFacts:
    """What became of adapters that were merged."""

    modules: int
    parameters: int
    rank: int
    """The highest of a module."""
    exact: bool
    """Nothing was cut off."""
    energy: dict[str, float]
    """Module → share of the merged difference's squared norm that its factors hold, of those that were cut."""
    worst: tuple[str, float] | None
    """The module that holds least, and its share."""
    warnings: tuple[str, ...]
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Merged:
    """One module of the result, at a scale of 1: down (r, inputs), up (outputs, r), fp32."""

    down: Tensor
    up: Tensor
    energy: float | None = None
    """None: not cut."""


def merge_adapters(
    prepared: Path,
    folders: Mapping[str, Path],
    settings: MergeStage,
    *,
    seed: int,
    moves: Callable[[], None] | None = None,
) -> AdapterFacts:
    """Write adapter_config.json and adapter_model.safetensors of the merged adapter into `prepared`, a folder beside
    its final place, as seen from which it names its base.

    folders: each model's published adapter. A module that an adapter leaves out counts as a difference of zero.
    moves: called after each module. StudyError for adapters that do not belong together, DoRA, NaN, and settings that
    adapters cannot have.
    """
    require_adapters_can(settings)
    with opened_together({name: folders[name] for name in settings.models}) as adapters:
        tensors, ranks, energy = _merged(adapters, settings, seed, moves)
        first = next(iter(adapters.values()))
        tensors |= {key: first.whole(key) for key in first.saved}
    _write(prepared, tensors, _config_of(adapters, ranks, prepared))
    return _facts(adapters, settings, tensors, ranks, energy, prepared)


def _merged(
    adapters: Mapping[str, AdapterFiles], settings: MergeStage, seed: int, moves: Callable[[], None] | None
) -> tuple[dict[str, Tensor], dict[str, int], dict[str, float]]:
    """Factors by their keys; rank, and the share of its energy where it was cut, by module."""
    modules = sorted({module for one in adapters.values() for module in one.modules}, key=_in_order)
    tensors: dict[str, Tensor] = {}
    ranks, energy = {}, {}
    one_stream.begin(seed)
    for module in modules:
        with _one_thread():
            merged = _merge_module(module, adapters, settings, seed)
        holder = next(one for one in adapters.values() if module in one.modules)
        for key, values, stored in zip(
            holder.modules[module], (merged.down, merged.up), holder.types(module), strict=True
        ):
            tensors[key] = _cast(values, getattr(torch, settings.dtype) if settings.dtype else stored, module)
        ranks[module] = len(merged.down)
        if merged.energy is not None:
            energy[module] = merged.energy
        if moves is not None:
            moves()
    return tensors, ranks, energy


@contextmanager
def _one_thread() -> Iterator[None]:
    """Products and decompositions have other last bits on other numbers of threads, and the result shall not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_adapters_can(settings: MergeStage) -> None:
    """StudyError for a definition or an option that has no meaning for adapters."""
    if settings.compat == "mergekit":
        raise StudyError(at("compat"), f"mergekit merges no adapters; use compat: paper or peft, or {FOLD}")
    if settings.method == "slerp":
        raise StudyError(at("method"), f"slerp's arc lies between whole weights, which no low rank holds; {FOLD}")
    if settings.method == "linear" and settings.scale != 1:
        raise StudyError(at("scale"), "is of methods that add up differences; linear has the models' weights")
    if settings.compat != "peft":
        return
    compat_peft.require_peft_has(settings)
    if settings.method == "task_arithmetic":
        message = "PEFT's add_weighted_adapter has no task_arithmetic; use linear, or compat: paper, which is exact"
        raise StudyError(at("method"), message)
    if settings.result_rank is not None:
        raise StudyError(at("result_rank"), "compat: peft keeps the adapters' own rank; leave result_rank out")


def _in_order(name: str) -> list[tuple[int, str]]:
    """Blocks by their numbers: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _merge_module(module: str, adapters: Mapping[str, AdapterFiles], settings: MergeStage, seed: int) -> Merged:
    role = role_of(module)
    found = {name: one.factors(module) for name, one in adapters.items() if module in one.modules}
    _require_one_shape(module, adapters, found)
    said = {name: settings.models[name] for name in adapters}
    weights = {name: one.weight_of(role) for name, one in said.items()}
    if settings.compat == "peft":
        densities = {name: one.density_of(role) for name, one in said.items()}
        return _by_factors(module, found, weights, densities, settings)
    if settings.method not in SPARSE:
        return _exact_sum(module, found, _shares(weights, settings, role), settings.result_rank)
    empty = torch.zeros(1).expand(next(iter(found.values())).shape)
    differences = {name: found[name].difference if name in found else empty for name in adapters}
    merged = merge_differences(f"{module}.weight", differences, settings, seed=seed, role=role)
    rank = settings.result_rank or sum(factors.rank for factors in found.values())
    kept = cut(merged, rank, name=module)
    return Merged(kept.down, kept.up, kept.share)


def _require_one_shape(module: str, adapters: Mapping[str, AdapterFiles], found: Mapping[str, Factors]) -> None:
    (first, one), *others = found.items()
    for name, other in others:
        if other.shape != one.shape:
            message = f"it adapts a {module} of {other.shape}, and {first} one of {one.shape}: their bases differ"
            raise adapters[name].wrong(message)


def _shares(weights: Mapping[str, float], settings: MergeStage, role: str) -> dict[str, float]:
    """What each difference is multiplied with. Divided by are the weights of all models, whatever they adapt."""
    normalize = settings.method == "linear" if settings.normalize is None else settings.normalize
    total = sum(weights.values()) if normalize else 1.0
    if total == 0:
        raise StudyError(at("models"), f"the weights of {role} sum up to 0, and normalize divides by their sum")
    return {name: weight * settings.scale / total for name, weight in weights.items()}


def _exact_sum(module: str, found: Mapping[str, Factors], shares: Mapping[str, float], rank: int | None) -> Merged:
    """All factors beside each other; of a lower rank, what is best of their product, which is not formed."""
    down = torch.cat([factors.down for factors in found.values()])
    up = torch.cat([factors.up * (shares[name] * factors.scale) for name, factors in found.items()], dim=1)
    if rank is None or rank >= len(down):
        return Merged(down, up)
    (rows, small_down), (columns, small_up) = torch.linalg.qr(down.T), torch.linalg.qr(up)
    kept = cut(small_up @ small_down.T, rank, name=module)
    return Merged(kept.down @ rows.T, columns @ kept.up, kept.share)


def _by_factors(
    module: str,
    found: Mapping[str, Factors],
    weights: Mapping[str, float],
    densities: Mapping[str, float],
    settings: MergeStage,
) -> Merged:
    """PEFT's way: A and B merged apart, each with the root of weight × scale, whose sign goes to A."""
    if len({factors.rank for factors in found.values()}) > 1:
        ranks = ", ".join(f"{name}: {factors.rank}" for name, factors in found.items())
        message = f"compat: peft adds up factors of one rank, and {module} has {ranks}; use compat: paper"
        raise StudyError(at("compat"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    method = "linear" if len(weights) == 1 else settings.method
    factors, kept = list(found.values()), [densities[name] for name in found]
    strengths = [weights[name] * one.scale for name, one in found.items()]
    roots = [math.sqrt(abs(strength)) for strength in strengths]
    signed = [math.copysign(root, strength) for root, strength in zip(roots, strengths, strict=True)]
    down = compat_peft.combine(method, [one.down for one in factors], signed, kept)
    up = compat_peft.combine(method, [one.up for one in factors], roots, kept)
    return Merged(down, up * settings.scale)


def _cast(values: Tensor, dtype: torch.dtype, module: str) -> Tensor:
    found = values.to(dtype).contiguous()
    if not bool(torch.isfinite(found).all()):
        kind = str(dtype).removeprefix("torch.")
        message = f"{module}: merged values are beyond what {kind} holds; look at weights, scale and dtype"
        raise StudyError(at("models"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    return found


def _config_of(adapters: Mapping[str, AdapterFiles], ranks: Mapping[str, int], prepared: Path) -> dict[str, Any]:
    """The first adapter's options, with ranks and a scale of 1 for every module."""
    first = next(iter(adapters.values()))
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    base, revision = first.base
    config = {
        **first.config,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "base_model_name_or_path": os.path.relpath(base, prepared.resolve()) if Path(base).is_absolute() else base,
        "revision": revision,
    }
    if not sits_alike(adapters):
        config |= {**dict.fromkeys(CHOICE), "target_modules": list(ranks)}
    return config


def _write(prepared: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> None:
    prepared.mkdir(parents=True, exist_ok=True)
    save_file(tensors, prepared / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (prepared / ADAPTER_CONFIG).write_text(text, encoding="utf-8")


def _facts(
    adapters: Mapping[str, AdapterFiles],
    settings: MergeStage,
    tensors: Mapping[str, Tensor],
    ranks: Mapping[str, int],
    energy: dict[str, float],
    prepared: Path,
) -> AdapterFacts:
    worst = min(energy.items(), key=lambda item: item[1], default=None)
    return AdapterFacts(
        modules=len(ranks),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        rank=max(ranks.values(), default=0),
        exact=settings.compat == "paper" and not energy,
        energy=energy,
        worst=worst,
        warnings=tuple(_warnings(adapters, settings, ranks, energy, worst)),
        read_bytes=sum(one.read_bytes for one in adapters.values()),
        written_bytes=(prepared / ADAPTER_WEIGHTS).stat().st_size,
    )


def _warnings(
    adapters: Mapping[str, AdapterFiles],
    settings: MergeStage,
    ranks: Mapping[str, int],
    energy: Mapping[str, float],
    worst: tuple[str, float] | None,
) -> Sequence[str]:
    found = []
    if worst is not None and worst[1] < LITTLE:
        few = sum(share < LITTLE for share in energy.values())
        found.append(
            f"the merged difference was cut to a low rank: {few} of {len(ranks)} modules hold less than {LITTLE:.0%} "
            f"of it, {worst[0]} only {worst[1]:.1%}; raise result_rank, or {FOLD}"
        )
    saved = sorted({key for one in adapters.values() for key in one.saved})
    if saved and settings.method != "linear":
        found.append(f"{len(saved)} tensors that all adapters hold whole and alike were taken over, not added up")
    for name, one in adapters.items():
        if lacking := [module for module in ranks if module not in one.modules]:
            found.append(f"{name} leaves out {len(lacking)} modules, such as {lacking[0]}: it adds nothing there")
    return found

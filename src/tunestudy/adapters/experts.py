"""Experts of a mixture: low-rank factors of other models' differences to the weights that a stage starts from.

Made once for a study and kept in `cache/experts/<key>/`; every rank reads the same bytes.
"""

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunestudy.adapters.expert_weights import (
    ExpertWeights,
    FoundExpert,
    find_expert,
    open_weights,
    own_factors,
    sits_on,
    start_identity,
)
from tunestudy.adapters.low_rank import Cut, Pair, cut, inner_product
from tunestudy.adapters.targets import adaptable_modules, target_names
from tunestudy.config.adapter import MoleAdapter, MoleExpert
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json, temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease
from tunestudy.records.manifest import problems, seal

FORMAT = 1
FILE, REPORT = "experts.safetensors", "experts.json"
WORST = 3
"""Modules named in an error, and whose spectra are kept to say which rank would do."""
SAME = 0.99
"""Experts whose cosine is above this are as good as one."""

Factors = dict[str, dict[str, Pair]]
"""Expert → module → A (r, inputs), B (outputs, r) with the scale inside; fp32, on the CPU. Null experts have none."""


def experts_of(job: Job, folder: JobDir, adapter: MoleAdapter, model: Any, *, is_writer: bool) -> Factors:
    """The factors of every expert that is not null, by the names of `model`'s modules.

    model: what the stage starts from, plain. is_writer: this rank writes experts.json and warns. Whichever rank comes
    first makes what is not in the cache; the others wait. StudyError at `stages.<stage>.adapter.experts.<name>` for an
    expert that is of another architecture, that changes none of the adapted modules, or whose factors hold less than
    `min_energy` of its difference.
    """
    found = {name: find_expert(job, folder, name, expert) for name, expert in given(adapter).items()}
    start = start_identity(job, model)
    modules = linear_modules(model, adapter, job.stage)
    key = _key(adapter, found, start, modules)
    kept = folder.study.cache / "experts" / key
    if problems(kept, hashes=False):
        with Lease.acquire(folder.study.leases / f"experts-{key}", wait_s=math.inf):
            if problems(kept):
                _make(kept, _Making(job, folder, adapter, model, modules, start), found)
    factors, report = _read(kept)
    if is_writer:
        write_json(folder.experts, _told(adapter, report))
        for line in report["warnings"]:
            print(f"experts: {line}", file=sys.stderr, flush=True)
    _check_energy(adapter, found, report)
    return factors


def given(adapter: MoleAdapter) -> dict[str, MoleExpert]:
    """The experts that are not null."""
    return {name: expert for name, expert in adapter.experts.items() if expert is not None}


def linear_modules(model: Any, adapter: MoleAdapter, stage: str) -> dict[str, nn.Linear]:
    """Name → the linear layers that the mixture goes on. StudyError for one of another kind."""
    wished = [adapter.target] if isinstance(adapter.target, str) else list(adapter.target or ())
    known = adaptable_modules(model)
    modules = {name: known[name] for name in target_names(model, adapter.target_modules, only=wished)}
    linear = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    if other := sorted(modules.keys() - linear.keys()):
        where = at(f"stages.{stage}.adapter.target_modules")
        raise StudyError(
            where, f"{other[0]} is no linear layer: a mixture has none on {type(modules[other[0]]).__name__}"
        )
    return linear


def _key(adapter: MoleAdapter, found: Mapping[str, FoundExpert], start: Any, modules: Mapping[str, nn.Linear]) -> str:
    """Of all that decides a byte of the factors; neither the order nor the names of the experts do, nor who trains."""
    experts = {name: [one.kind, one.identity, given(adapter)[name].use] for name, one in found.items()}
    dtype = str(next(iter(modules.values())).weight.dtype)
    facts = [FORMAT, experts, start, adapter.lora_r, sorted(modules), dtype]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class _Making:
    """What experts are made against."""

    def __init__(
        self, job: Job, folder: JobDir, adapter: MoleAdapter, model: Any, modules: dict[str, nn.Linear], start: Any
    ) -> None:
        self.job, self.folder, self.adapter = job, folder, adapter
        self.model, self.modules, self.start = model, modules, start

    def expert(self, found: FoundExpert) -> tuple[dict[str, Pair], dict[str, Any]]:
        """One expert's factors and what is reported of it."""
        use = given(self.adapter)[found.name].use
        facts: dict[str, Any] = {
            "from": found.label,
            "use": use,
            "energy": None,
            "overall": None,
            "outside": None,
            "ranks_for": {},
        }
        if use == "factors":
            if found.kind != "adapter":
                raise found.wrong(f"{found.label} is a whole model and has no factors; leave `use: factors` out")
            factors = self._checked(found, own_factors(found))
            return factors, {**facts, "rank": _rank(factors)}
        if sits_on(found, self.model, self.start) and (exact := self._exact(found)):
            ones = dict.fromkeys(exact, 1.0)
            return exact, {**facts, "energy": ones, "overall": 1.0, "outside": 0.0, "rank": _rank(exact)}
        return self._cuts(found, facts)

    def _exact(self, found: FoundExpert) -> dict[str, Pair] | None:
        """The own factors of an adapter on the very start; None where it changes more than they and the stage adapt."""
        try:
            factors = own_factors(found)
        except StudyError:
            return None  # DoRA, or whole modules beside: its difference is read from the weights
        return self._checked(found, factors) if factors.keys() <= self.modules.keys() else None

    def _checked(self, found: FoundExpert, factors: dict[str, Pair]) -> dict[str, Pair]:
        for module, (down, up) in factors.items():
            layer = self.modules.get(module)
            if layer is None:
                cure = "name it in target_modules, or take the difference of its weights (use: difference)"
                raise found.wrong(f"{found.label} has factors on {module}, which this stage does not adapt; {cure}")
            if (up.shape[0], down.shape[1]) != tuple(layer.weight.shape):
                shape = f"{up.shape[0]} × {down.shape[1]}, not {layer.weight.shape[0]} × {layer.weight.shape[1]}"
                raise found.wrong(f"{found.label} is of another architecture: its factors of {module} make {shape}")
            if not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
                raise found.wrong(f"{found.label}: its factors of {module} hold values that are not finite")
        return factors

    def _cuts(self, found: FoundExpert, facts: dict[str, Any]) -> tuple[dict[str, Pair], dict[str, Any]]:
        """The best factors of its difference, module by module."""
        weights = open_weights(found, self.job, self.folder, list(self.modules))
        cuts: dict[str, Cut] = {}
        factors: dict[str, Pair] = {}
        for module, layer in self.modules.items():
            made = cut(self._difference(found, weights, module, layer), self.adapter.lora_r, name=module)
            cuts[module] = made
            if made.total > 0:
                factors[module] = (made.down.cpu(), made.up.cpu())
        total, held = (sum(getattr(made, part) for made in cuts.values()) for part in ("total", "held"))
        if total == 0:
            raise found.wrong(
                f"{found.label} is the same as what the stage starts from in every adapted module: it adds nothing; "
                "make it null, or start the stage from other weights"
            )
        changed = {module: made for module, made in cuts.items() if made.total > 0}
        worst = sorted(changed, key=lambda module: changed[module].share)[:WORST]
        outside = self._outside(weights)
        return factors, {
            **facts,
            "rank": _rank(factors),
            "energy": {module: made.share for module, made in changed.items()},
            "overall": held / total,
            "outside": outside / (outside + total),
            "ranks_for": {module: changed[module].spectrum for module in worst if changed[module].spectrum},
        }

    def _difference(self, found: FoundExpert, weights: ExpertWeights, module: str, layer: nn.Linear) -> Tensor:
        """(outputs, inputs) fp32, on the layer's device."""
        theirs = weights.weight(module)
        if theirs is None:
            raise found.wrong(f"{found.label} is of another architecture: it has no {module}.weight")
        if theirs.shape != layer.weight.shape:
            shapes = f"{tuple(theirs.shape)}, not {tuple(layer.weight.shape)}"
            raise found.wrong(f"{found.label} is of another architecture: {module}.weight has shape {shapes}")
        difference = theirs.to(layer.weight.device).sub_(layer.weight.detach().float())
        if not bool(torch.isfinite(difference).all()):
            raise found.wrong(f"{found.label}: {module}.weight holds values that are not finite")
        return difference

    def _outside(self, weights: ExpertWeights) -> float:
        """Squared norm of the difference in tensors that no factor stands for, as embeddings and norms."""
        own = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        total = 0.0
        for name, theirs in weights.others(set(self.modules)):
            ours = own.get(name)
            if ours is not None and ours.shape == theirs.shape and ours.is_floating_point():
                total += float((theirs.to(ours.device).float() - ours.float()).double().square().sum())
        return total


def _rank(factors: Mapping[str, Pair]) -> int:
    return max((down.shape[0] for down, _ in factors.values()), default=0)


def _make(kept: Path, making: _Making, found: Mapping[str, FoundExpert]) -> None:
    """Seal all experts' factors and what is reported of them, one expert after the other."""
    from safetensors.torch import save_file

    factors, experts, tensors = {}, {}, {}
    for number, (name, one) in enumerate(found.items()):
        factors[name], experts[name] = making.expert(one)
        for module, (down, up) in factors[name].items():
            tensors[f"{number}:{module}:A"], tensors[f"{number}:{module}:B"] = down.contiguous(), up.contiguous()
    prepared = temporary_beside(kept)
    prepared.mkdir(parents=True)
    try:
        save_file(tensors, prepared / FILE, metadata={"format": "pt"})
        report = {"experts": experts, "warnings": [*_too_alike(factors), *_left_out(experts)]}
        write_json(prepared / REPORT, report)
        seal(prepared, kept, {"kind": "experts"})
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def _read(kept: Path) -> tuple[Factors, dict[str, Any]]:
    from safetensors.torch import load_file

    report = read_json(kept / REPORT)
    assert isinstance(report, dict), "sealed"
    names = list(report["experts"])
    factors: Factors = {name: {} for name in names}
    stored = load_file(kept / FILE)
    for key, down in stored.items():
        number, module, half = key.split(":")
        if half == "A":
            factors[names[int(number)]][module] = (down, stored[f"{number}:{module}:B"])
    return factors, report


def _too_alike(factors: Factors) -> list[str]:
    """Two experts that are one: gates cannot tell them apart, as when one was trained from the other for a moment."""
    squares = {name: sum(inner_product(pair, pair) for pair in mine.values()) for name, mine in factors.items()}
    told = []
    for one, other in combinations(factors, 2):
        shared = factors[one].keys() & factors[other].keys()
        product = sum(inner_product(factors[one][module], factors[other][module]) for module in shared)
        size = math.sqrt(squares[one] * squares[other])
        if size > 0 and product / size > SAME:
            told.append(
                f"{one} and {other} are almost the same (cosine {product / size:.4f}): one may descend from the other; "
                "a gate gains nothing by choosing between them"
            )
    return told


def _left_out(experts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"{name}: {facts['outside']:.1%} of its difference's squared norm lies in tensors that this stage does not "
        "adapt (embeddings, norms, other roles), and is left out"
        for name, facts in experts.items()
        if facts["outside"] and facts["outside"] >= 0.01
    ]


def _told(adapter: MoleAdapter, report: Mapping[str, Any]) -> dict[str, Any]:
    """experts.json of a job, experts in the order of the settings."""
    nothing = {"from": None, "use": None, "rank": 0, "energy": None, "overall": None, "outside": None}
    experts = {
        name: nothing if one is None else {key: report["experts"][name][key] for key in nothing}
        for name, one in adapter.experts.items()
    }
    return {"experts": experts, "min_energy": adapter.min_energy}


def _check_energy(adapter: MoleAdapter, found: Mapping[str, FoundExpert], report: Mapping[str, Any]) -> None:
    for name, facts in report["experts"].items():
        share = facts["overall"]
        if share is None or share >= adapter.min_energy:
            continue
        energy: dict[str, float] = facts["energy"]
        worst = sorted(energy, key=lambda module: energy[module])[:WORST]
        named = ", ".join(f"{module} {energy[module]:.1%}" for module in worst)
        raise found[name].wrong(
            f"factors of rank {facts['rank']} hold {share:.1%} of its difference, and min_energy asks for "
            f"{adapter.min_energy:.1%}; least is held of {named}{_rank_that_does(adapter, facts, worst)}; "
            "raise lora_r, or lower min_energy"
        )


def _rank_that_does(adapter: MoleAdapter, facts: Mapping[str, Any], worst: Sequence[str]) -> str:
    spectrum = facts["ranks_for"].get(worst[0])
    if spectrum is None:
        return ""
    made = Cut(torch.empty(0), torch.empty(0), sum(spectrum), 0.0, tuple(spectrum))
    return f" (there rank {made.rank_for(adapter.min_energy)} would do)"

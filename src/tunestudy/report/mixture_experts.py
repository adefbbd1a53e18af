"""Experts of a mixture: where they come from, and how much of a difference their factors hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunestudy.report.facts import JobFacts, Settings
from tunestudy.report.lineage import where_from
from tunestudy.report.plots_mixture import Grid, grid
from tunestudy.report.sparsity import kind_of, layer_of
from tunestudy.report.spread import Spread, spread
from tunestudy.report.values import mapping, number, numbers, whole

LOWEST = 12
"""Modules named whose factors hold least."""


@dataclass(frozen=True, kw_only=True)
class Expert:
    """Where an expert comes from, and what its factors hold of the difference that they stand for."""

    name: str
    origin: str
    kind: str
    rank: int | None
    overall: Spread
    outside: Spread
    """Share of the difference in weights that the mixture does not adapt."""
    by_module: dict[str, float]
    """Captured energy, the lowest over seeds."""
    below: int
    """Modules under the study's threshold."""
    picture: Grid | None

    @property
    def lowest(self) -> list[tuple[str, float]]:
        return sorted(self.by_module.items(), key=lambda pair: pair[1])[:LOWEST]


def expert_of(name: str, adapter: Settings, jobs: Sequence[JobFacts]) -> Expert:
    """`adapter`: the mixture's settings; `jobs`: one per seed."""
    settings = mapping(adapter.get("experts")).get(name)
    told = [mapping(mapping(job.experts.get("experts")).get(name)) for job in jobs]
    by_module: dict[str, float] = {}
    for one in told:
        for module, share in numbers(one.get("energy")).items():
            by_module[module] = min(share, by_module.get(module, share))
    least = min_energy_of(adapter, jobs)
    return Expert(
        name=name,
        origin=where_from(mapping(settings)) if settings else "adds nothing",
        kind=str(mapping(settings).get("use") or "difference") if settings else "",
        rank=next((rank for one in told if (rank := whole(one.get("rank"))) is not None), None),
        overall=spread(number(one.get("overall")) for one in told),
        outside=spread(number(one.get("outside")) for one in told),
        by_module=by_module,
        below=sum(share < (least or 0.0) for share in by_module.values()),
        picture=_energy_grid(name, by_module, least),
    )


def min_energy_of(adapter: Settings, jobs: Sequence[JobFacts]) -> float | None:
    """Share that factors must hold, as the jobs recorded it; before that, as the study has it."""
    told = (number(job.experts.get("min_energy")) for job in jobs)
    return next((known for known in told if known is not None), number(adapter.get("min_energy")))


def _energy_grid(name: str, by_module: dict[str, float], least: float | None) -> Grid | None:
    """Kinds of modules by layer; the lowest where several modules fall into one cell."""
    if not by_module:
        return None
    cells: dict[tuple[str, str], float] = {}
    for module, share in by_module.items():
        place = (kind_of(module), layer_of(module))
        cells[place] = min(share, cells.get(place, share))
    kinds = list(dict.fromkeys(kind for kind, _ in cells))
    layers = sorted(
        dict.fromkeys(layer for _, layer in cells),
        key=lambda one: (not one.isdigit(), int(one) if one.isdigit() else 0),
    )
    values = np.array([[cells.get((kind, layer), np.nan) for layer in layers] for kind in kinds])
    return grid(f"Energy that {name}'s factors hold", kinds, layers, values, what="layer", least=least or 0.0)

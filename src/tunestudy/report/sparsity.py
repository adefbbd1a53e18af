"""Adapters with gates: what was pruned, when and where, and what it cost."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunestudy.report.compare import Cell, Headline
from tunestudy.report.curves import common_grid
from tunestudy.report.facts import BASE_MODEL, JobFacts, StudyFacts, mean
from tunestudy.report.plots import Heat, Point, Scatter, heat, scatter
from tunestudy.report.statistics import Summary, summarise
from tunestudy.report.values import number

MILLION = 1e6
FIRST, LAST = 12, 3
"""Modules named in the order of pruning: so many from its beginning, so many from its end."""
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_OWN_COLUMNS = ("epoch", "step", "overall")


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """What a variant reaches, and with how many parameters that are not pruned. Means over seeds."""

    variant: str
    gated: bool
    strength: float | None
    """`sparse_lambda`: a label where `target` is given."""
    target: float | None
    sparsity: Summary
    """Of the seeds that have finished; n = 0 without gates."""
    trainable: float | None
    effective: float | None
    cells: dict[str, Cell]
    """Primary metric by benchmark."""
    on_front: frozenset[str]
    """Benchmarks on which no compared variant is at least as good with fewer effective parameters."""

    def per_million(self, benchmark: str) -> float | None:
        """Score per million effective parameters."""
        score = self.cells[benchmark].summary.mean
        return None if score is None or not self.effective else score / (self.effective / MILLION)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """When a module lost half of what it lost in the end."""

    module: str
    half_by: float
    final: float


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Where and when a variant's gates went to zero, as the mean over its seeds."""

    variant: str
    seeds: int
    steps: list[float]
    heats: list[Heat]
    order: list[Pruned]
    """Every module that lost a gate, the first ones first."""
    untouched: int
    """Modules that kept every gate."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Of one benchmark."""

    benchmark: str
    metric: str
    by_sparsity: Scatter | None
    by_parameters: Scatter | None


def efficiencies(facts: StudyFacts, headline: Headline) -> list[Efficiency]:
    """One row per variant that ends with the same stage as one with gates; empty for studies without gates."""
    ends = {facts.stages_of(variant)[-1] for variant in facts.variants if facts.is_gated(variant)} - {BASE_MODEL}
    compared = [variant for variant in facts.variants if facts.stages_of(variant)[-1] in ends]
    params = {variant: _mean_of(facts, variant, "effective_params") for variant in compared}
    fronts = {name: _front(headline.rows(name), params) for name in facts.benchmarks}
    return [_efficiency(facts, headline, variant, params[variant], fronts) for variant in compared]


def _efficiency(
    facts: StudyFacts, headline: Headline, variant: str, effective: float | None, fronts: dict[str, set[str]]
) -> Efficiency:
    adapter = facts.adapter_of(variant)
    finals = [final for job in facts.last_jobs(variant) if (final := final_sparsity(job)) is not None]
    return Efficiency(
        variant=variant,
        gated=facts.is_gated(variant),
        strength=number(adapter.get("sparse_lambda")),
        target=number(adapter.get("target_sparsity")),
        sparsity=summarise(finals),
        trainable=_mean_of(facts, variant, "trainable_params"),
        effective=effective,
        cells={cell.benchmark: cell for cell in headline.cells if cell.primary and cell.variant == variant},
        on_front=frozenset(name for name, front in fronts.items() if variant in front),
    )


def final_sparsity(job: JobFacts) -> float | None:
    """Share of gates at zero in the published result; None without gates or before the end."""
    if job.training is None:
        return None
    logged = job.sparsity_log.get("overall", [])
    return job.training.sparsity if job.training.sparsity is not None else (logged[-1] if logged else None)


def _mean_of(facts: StudyFacts, variant: str, name: str) -> float | None:
    return mean([getattr(job.training, name) for job in facts.last_jobs(variant) if job.training])


def _front(cells: Sequence[Cell], params: dict[str, float | None]) -> set[str]:
    """Variants that no other one beats or equals with at most as many parameters, one of both strictly."""
    known = [
        (size, -cell.summary.mean if cell.direction == "lower" else cell.summary.mean, cell.variant)
        for cell in cells
        if cell.direction != "neither" and cell.summary.mean is not None and (size := params.get(cell.variant))
    ]
    return {
        variant
        for size, score, variant in known
        if not any(s <= size and other >= score and (s < size or other > score) for s, other, _ in known)
    }


def pictures(facts: StudyFacts, rows: Sequence[Efficiency]) -> Iterator[Pictures]:
    """Score over final sparsity and over effective parameters, for each benchmark."""
    adapters = [row for row in rows if facts.adapter_of(row.variant)]
    for name in facts.benchmarks if rows else ():
        metric = rows[0].cells[name].metric
        yield Pictures(
            benchmark=name,
            metric=metric,
            by_sparsity=_picture(facts, adapters, name, ("gates at zero at the end", metric), _sparsity_of),
            by_parameters=_picture(facts, rows, name, ("effective parameters", metric), _params_of),
        )


def _picture(
    facts: StudyFacts,
    rows: Sequence[Efficiency],
    benchmark: str,
    titles: tuple[str, str],
    place_of: Callable[[JobFacts, Efficiency], float | None],
) -> Scatter | None:
    points: list[Point] = []
    means: list[Point] = []
    for row in rows:
        scores = row.cells[benchmark].points
        jobs = [(seed, facts.last_job(row.variant, seed)) for seed in scores]
        found = [(seed, at, scores[seed]) for seed, job in jobs if job and (at := place_of(job, row)) is not None]
        points += [(row.variant, f"seed {seed}", at, score) for seed, at, score in found]
        if found:
            middle = [sum(column) / len(found) for column in zip(*((at, score) for _, at, score in found), strict=True)]
            means.append((row.variant, "mean", middle[0], middle[1]))
    shares = place_of is _sparsity_of
    front = [] if shares else [row.variant for row in rows if benchmark in row.on_front]
    return scatter(points, means, titles=titles, front=front, shares=shares)


def _sparsity_of(job: JobFacts, row: Efficiency) -> float | None:
    if not row.gated:
        return 0.0 if job.training else None
    return final_sparsity(job)


def _params_of(job: JobFacts, _row: Efficiency) -> float | None:
    params = job.training.effective_params if job.training else None
    return float(params) if params else None


def prunings(facts: StudyFacts) -> list[Pruning]:
    """One for each variant with gates that has logged a step."""
    found = [_pruning(facts, variant) for variant in facts.variants if facts.is_gated(variant)]
    return [pruning for pruning in found if pruning]


def _pruning(facts: StudyFacts, variant: str) -> Pruning | None:
    logs = [job.sparsity_log for job in facts.last_jobs(variant) if job.sparsity_log]
    modules = [name for name in (logs[0] if logs else {}) if name not in _OWN_COLUMNS]
    modules = [name for name in modules if all(name in log for log in logs)]
    steps, values = _mean_by_module(logs, modules) if modules else ([], np.zeros((0, 0)))
    if not steps:
        return None
    final = values[:, -1]
    order = [
        Pruned(module=name, half_by=steps[int(np.argmax(row >= row[-1] / 2))], final=float(row[-1]))
        for name, row in zip(modules, values, strict=True)
        if row[-1] > 0
    ]
    return Pruning(
        variant=variant,
        seeds=len(logs),
        steps=steps,
        heats=[
            _heat("by layer", modules, steps, values, layer_of),
            _heat("by kind of module", modules, steps, values, kind_of),
        ],
        order=sorted(order, key=lambda pruned: (pruned.half_by, -pruned.final, pruned.module)),
        untouched=int((final <= 0).sum()),
    )


def _mean_by_module(logs: Sequence[dict[str, list[float]]], modules: Sequence[str]) -> tuple[list[float], np.ndarray]:
    """Steps that all seeds have come to, and the mean share of each module there, shape (modules, steps)."""
    tables = [np.array([log["step"], *(log[name] for name in modules)]) for log in logs]
    whole = [table[:, np.isfinite(table).all(axis=0)] for table in tables]  # a row that is being written is not
    whole = [table for table in whole if table.shape[1]]
    if not whole:
        return [], np.zeros((len(modules), 0))
    rows, steps = [], np.zeros(0)
    for place in range(1, len(modules) + 1):
        steps, values = common_grid([list(zip(table[0], table[place], strict=True)) for table in whole])
        rows.append(values.mean(axis=0))
    return [float(step) for step in steps], np.array(rows)


def _heat(
    title: str, modules: Sequence[str], steps: list[float], values: np.ndarray, group_of: Callable[[str], str]
) -> Heat:
    """Modules of a group averaged; groups in the order of their first module, layers from the first one down."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(modules):
        groups[group_of(name)].append(place)
    names = sorted(groups, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0))
    return heat(title, names, steps, np.array([values[groups[name]].mean(axis=0) for name in names]))


def layer_of(module: str) -> str:
    """`layers.3.self_attn.q_proj` → `3`; a module outside the layers stands for itself."""
    match = _LAYER.search(module)
    return match[1] if match else module


def kind_of(module: str) -> str:
    """`layers.3.self_attn.q_proj` → `q_proj`."""
    return module.rpartition(".")[2]

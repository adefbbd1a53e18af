"""Mixtures of LoRA experts: who is used where, how sure the gates are, and what the experts' factors hold."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tunestudy.report.curves import common_grid, thin
from tunestudy.report.facts import OVERALL, GateLog, JobFacts, Settings, StudyFacts
from tunestudy.report.format import listing, percent, plural, sig
from tunestudy.report.lineage import is_mixture
from tunestudy.report.mixture_experts import Expert, expert_of, min_energy_of
from tunestudy.report.plots import Heat, heat
from tunestudy.report.plots_mixture import Grid, Lines, Series, grid, lines
from tunestudy.report.sparsity import layer_of
from tunestudy.report.spread import Spread, spread
from tunestudy.report.values import mapping, number, whole

TAKES_ALL, ALL_BUT_HARD = 0.9, 0.1
"""Gates have collapsed when one expert has more than this share of them, or their entropy is below that."""
ROWS = 12
"""Steps of the table of what is drawn over the steps."""
_GATES = {
    "token": "each token's hidden state chooses",
    "sequence": "the mean over a sample's prompt chooses",
    "layer": "one mixture per block, whatever the input",
}
_BALANCE = {"switch": "Switch Transformer's", "mole": "the MoLE paper's"}


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gated block at the last logged step, over seeds; or all of them together."""

    block: str
    entropy: Spread
    balance: Spread
    usage: dict[str, Spread]


@dataclass(frozen=True, kw_only=True)
class Step:
    """All blocks together at one step; means over seeds."""

    step: float
    entropy: float | None
    balance: float | None
    usage: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One stage of the variants that share it, over its seeds."""

    stage: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: list[tuple[str, str]]
    experts: list[Expert]
    min_energy: float | None
    last_step: float | None
    logged: int
    """Seeds that have logged a step."""
    gates: list[Gate]
    overall: Gate | None
    steps: list[Step]
    usage: Grid | None
    entropy: Heat | None
    usage_over_steps: Lines | None
    entropy_over_steps: Lines | None
    balance_over_steps: Lines | None
    collapsed: list[str]
    """In words; empty where gates are as they should be."""


def mixtures(facts: StudyFacts) -> list[Mixture]:
    """One per stage that mixes and set of variants that share it, in the plan's order."""
    return [_mixture(facts, stage, variants, jobs) for (stage, variants), jobs in _groups(facts).items()]


def collapses(facts: StudyFacts) -> Iterator[str]:
    """For the list of what weakens a comparison."""
    for (stage, variants), jobs in _groups(facts).items():
        if found := list(_collapsed(*_gates(facts, jobs), _top_k(_adapter(facts, jobs)))):
            yield f"mixture {stage} of {listing(variants, 4)} has collapsed: {'; '.join(found)}"


def _groups(facts: StudyFacts) -> dict[tuple[str, tuple[str, ...]], list[JobFacts]]:
    groups: dict[tuple[str, tuple[str, ...]], list[JobFacts]] = defaultdict(list)
    for job in facts.jobs:
        if is_mixture(facts.settings_of(job)):
            groups[job.stage, job.variants].append(job)
    return groups


def _gates(facts: StudyFacts, jobs: Sequence[JobFacts]) -> tuple[list[Gate], Gate | None]:
    """Each gated block, and all together."""
    logs = _logs(jobs)
    experts = _expert_names(_adapter(facts, jobs), logs)
    blocks = [name for name in (logs[0] if logs else {}) if name != OVERALL]
    return [_gate(block, logs, experts) for block in blocks], _gate(OVERALL, logs, experts) if logs else None


def _adapter(facts: StudyFacts, jobs: Sequence[JobFacts]) -> Settings:
    return mapping(facts.settings_of(jobs[0]).get("adapter"))


def _logs(jobs: Sequence[JobFacts]) -> list[dict[str, GateLog]]:
    """Of the seeds that have logged a step."""
    return [job.gate_log for job in jobs if any(log.steps for log in job.gate_log.values())]


def _mixture(facts: StudyFacts, stage: str, variants: tuple[str, ...], jobs: Sequence[JobFacts]) -> Mixture:
    adapter, logs = _adapter(facts, jobs), _logs(jobs)
    experts = _expert_names(adapter, logs)
    gates, overall = _gates(facts, jobs)
    means = _over_steps([log[OVERALL] for log in logs if OVERALL in log], experts)
    return Mixture(
        stage=stage,
        variants=variants,
        seeds=tuple(job.seed for job in jobs),
        settings=list(_settings(adapter)),
        experts=[expert_of(name, adapter, jobs) for name in experts],
        min_energy=min_energy_of(adapter, jobs),
        last_step=max((log.steps[-1] for of in logs for log in of.values() if log.steps), default=None),
        logged=len(logs),
        gates=gates,
        overall=overall,
        steps=means.rows(experts),
        usage=_usage_grid(gates, experts),
        entropy=_entropy_heat([gate.block for gate in gates], logs),
        usage_over_steps=means.usage(experts),
        entropy_over_steps=means.one("entropy", "Entropy of all gates over the steps", shares=True),
        balance_over_steps=means.one("balance", "Balance loss over the steps", shares=False),
        collapsed=list(_collapsed(gates, overall, _top_k(adapter))),
    )


def _settings(adapter: Settings) -> Iterator[tuple[str, str]]:
    """The mixture in words."""
    gate = str(adapter.get("gate") or "token")
    yield "gate", f"{gate}: {_GATES[gate]}" if gate in _GATES else gate
    top_k = _top_k(adapter)
    yield "experts at once", "all" if top_k is None else str(top_k)
    temperature = number(adapter.get("temperature"))
    learnt = ", learnt" if adapter.get("learn_temperature") else ""
    yield "temperature", ("1" if temperature is None else f"{temperature:g}") + learnt
    balance = str(adapter.get("balance") or "switch")
    coefficient = number(adapter.get("balance_coefficient"))
    off = balance == "none" or coefficient == 0
    yield (
        "balance loss",
        "none" if off else f"{_BALANCE.get(balance, balance)} × {0.01 if coefficient is None else coefficient:g}",
    )
    yield "trained", "gates alone" if adapter.get("train_experts") is False else "gates and experts"


def _top_k(adapter: Settings) -> int | None:
    return whole(adapter.get("top_k"))


def _expert_names(adapter: Settings, logs: Sequence[dict[str, GateLog]]) -> list[str]:
    logged = (name for log in logs for of in log.values() for name in of.usage)
    return list(dict.fromkeys([*map(str, mapping(adapter.get("experts"))), *logged]))


def _gate(block: str, logs: Sequence[dict[str, GateLog]], experts: Sequence[str]) -> Gate:
    found = [log[block] for log in logs if block in log]
    return Gate(
        block=block,
        entropy=spread(_last(log.entropy) for log in found),
        balance=spread(_last(log.balance) for log in found),
        usage={name: spread(_last(log.usage.get(name, [])) for log in found) for name in experts},
    )


def _last(values: Sequence[float]) -> float | None:
    """The last one that is known; a row that was cut off may lack it."""
    return next((value for value in reversed(values) if value == value), None)


@dataclass(frozen=True, kw_only=True)
class _Means:
    """All blocks together over the steps: means over seeds, and the seeds themselves. By column."""

    means: dict[str, Series]
    seeds: dict[str, list[Series]]

    def usage(self, experts: Sequence[str]) -> Lines | None:
        keys = [_USAGE + name for name in experts]
        means = {key.removeprefix(_USAGE): self.means[key] for key in keys if key in self.means}
        seeds = {key.removeprefix(_USAGE): self.seeds[key] for key in keys if key in self.seeds}
        return lines("Use of every expert over the steps, all blocks together", means, seeds, shares=True)

    def one(self, key: str, title: str, *, shares: bool) -> Lines | None:
        if not any(value for _, values in self.seeds.get(key, []) for value in values):
            return None
        return lines(title, {key: self.means[key]}, {key: self.seeds[key]}, shares=shares)

    def rows(self, experts: Sequence[str]) -> list[Step]:
        """A few steps, evenly spaced, the ends among them."""
        tables = {key: dict(zip(*series, strict=True)) for key, series in self.means.items()}
        steps = sorted({step for table in tables.values() for step in table})
        return [
            Step(
                step=step,
                entropy=tables.get("entropy", {}).get(step),
                balance=tables.get("balance", {}).get(step),
                usage={name: tables.get(_USAGE + name, {}).get(step) for name in experts},
            )
            for step in thin(steps, ROWS)
        ]


_USAGE = "usage/"


def _over_steps(logs: Sequence[GateLog], experts: Sequence[str]) -> _Means:
    columns: dict[str, Callable[[GateLog], list[float]]] = {
        "entropy": lambda log: log.entropy,
        "balance": lambda log: log.balance,
        **{_USAGE + name: lambda log, name=name: log.usage.get(name, []) for name in experts},  # type: ignore[misc]
    }
    seeds = {key: [one for log in logs if (one := _known(log.steps, of(log)))[0]] for key, of in columns.items()}
    seeds = {key: found for key, found in seeds.items() if found}
    return _Means(means={key: _mean(found) for key, found in seeds.items()}, seeds=seeds)


def _known(steps: Sequence[float], values: Sequence[float]) -> Series:
    pairs = [(step, value) for step, value in zip(steps, values, strict=False) if value == value]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _mean(found: Sequence[Series]) -> Series:
    """Over seeds, at the steps that all of them have come to."""
    if all(steps == found[0][0] for steps, _ in found):
        return found[0][0], np.mean([values for _, values in found], axis=0).tolist()
    steps, values = common_grid([list(zip(*series, strict=True)) for series in found])
    return steps.tolist(), values.mean(axis=0).tolist()


def _usage_grid(gates: Sequence[Gate], experts: Sequence[str]) -> Grid | None:
    if not gates:
        return None
    shares = [[gate.usage[name].mean for gate in gates] for name in experts]
    values = np.array([[np.nan if share is None else share for share in row] for row in shares], dtype=float)
    return grid(
        "Use of every expert by block", experts, block_labels([gate.block for gate in gates]), values, what="block"
    )


def _entropy_heat(blocks: Sequence[str], logs: Sequence[dict[str, GateLog]]) -> Heat | None:
    means = {
        block: _mean(found)
        for block in blocks
        if (found := [one for log in logs if block in log and (one := _known(log[block].steps, log[block].entropy))[0]])
    }
    if not means:
        return None
    named = dict(zip(blocks, block_labels(blocks), strict=True))
    steps, values = common_grid([list(zip(*series, strict=True)) for series in means.values()])
    rows = [named[block] for block in means][: len(values)]  # fewer where blocks have no step in common
    return heat("by block", rows, steps.tolist(), values, "Entropy of the gates")


def block_labels(blocks: Sequence[str]) -> list[str]:
    """The numbers of layers; whole names where those would not tell blocks apart."""
    numbers_ = [layer_of(block) for block in blocks]
    return numbers_ if len(set(numbers_)) == len(numbers_) else list(blocks)


def _collapsed(gates: Sequence[Gate], overall: Gate | None, top_k: int | None) -> Iterator[str]:
    """Of a mixture as a whole, then of single blocks. One expert at a time has no entropy that could tell."""
    if overall is None:
        return
    for name, share in overall.usage.items():
        if share.mean is not None and share.mean > TAKES_ALL:
            yield f"expert {name} has {percent(share.mean)} of all gates"
    if top_k == 1:
        return
    if overall.entropy.mean is not None and overall.entropy.mean < ALL_BUT_HARD:
        yield f"the gates' entropy is {sig(overall.entropy.mean)} of at most 1: nearly every gate opens for one expert"
        return
    labels = block_labels([gate.block for gate in gates])
    hard = [
        label
        for label, gate in zip(labels, gates, strict=True)
        if gate.entropy.mean is not None and gate.entropy.mean < ALL_BUT_HARD
    ]
    if hard:
        yield f"the entropy of gates is below {ALL_BUT_HARD:g} in {plural(len(hard), 'block')} ({listing(hard, 6)})"

"""Stages that merge: what went in with which weight, how far apart it lay, and what was noticed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunestudy.config.merge import BASE
from tunestudy.report.facts import JobFacts, Settings, StudyFacts
from tunestudy.report.format import MISSING, listing, percent, plural
from tunestudy.report.lineage import read_by, where_from
from tunestudy.report.spread import Spread, spread
from tunestudy.report.values import mapping, number, texts, whole

METHODS = {
    "linear": "weighted mean of the models' weights",
    "task_arithmetic": "weighted sum of the models' differences to the base",
    "ties": "the largest parts of each difference to the base; where signs conflict, those of the heavier side",
    "dare_linear": "parts of each difference to the base, drawn at random and scaled up to stand for all of it",
    "dare_ties": "parts of each difference to the base, drawn at random and scaled up to stand for all of it; where "
    "signs conflict, those of the heavier side",
    "slerp": "a place on the arc from the first model's weights to the second's",
}
_SHOWN_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Input:
    """One thing that was merged, or the base."""

    name: str
    origin: str
    jobs: tuple[str, ...]
    """One per seed, where seeds have jobs of their own."""
    weight: str
    density: str
    kind: str
    identities: tuple[str, ...]
    """Shortened; one per seed where they differ."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A model's difference to the base in one role."""

    model: str
    zero_share: Spread
    norm: Spread
    relative_norm: Spread


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two models' differences, or weights where there is no base, in one role."""

    names: str
    cosine: Spread
    sign_conflict: Spread


@dataclass(frozen=True, kw_only=True)
class Role:
    """One named part of the model."""

    name: str
    tensors: int | None
    parameters: int | None
    differences: list[Difference]
    pairs: list[Pair]


@dataclass(frozen=True, kw_only=True)
class Merging:
    """One stage of the variants that share it, over its seeds."""

    stage: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    reported: int
    """Seeds whose merge has been reported on."""
    method: str
    meaning: str
    settings: list[tuple[str, str]]
    """What else was set, in words."""
    inputs: list[Input]
    roles: list[Role]
    of_differences: bool
    """Whether pairs compare differences to a base, not weights."""
    absent: str
    vocabulary: str
    adapter: str
    """Of adapters that became one: its rank, and what the cut to it left."""
    warnings: list[str]
    duration_s: float | None
    read_bytes: float | None
    written_bytes: float | None
    threads: int | None

    @property
    def has_weights(self) -> bool:
        return any(one.weight for one in self.inputs)

    @property
    def has_densities(self) -> bool:
        return any(one.density for one in self.inputs)

    @property
    def has_differences(self) -> bool:
        return any(role.differences for role in self.roles)

    @property
    def has_pairs(self) -> bool:
        return any(role.pairs for role in self.roles)


def merges(facts: StudyFacts) -> list[Merging]:
    """One per stage that merges and set of variants that share it, in the plan's order."""
    groups: dict[tuple[str, tuple[str, ...]], list[JobFacts]] = defaultdict(list)
    for job in facts.jobs:
        if facts.settings_of(job).get("type") == "merge":
            groups[job.stage, job.variants].append(job)
    return [_merging(facts, stage, variants, jobs) for (stage, variants), jobs in groups.items()]


def _merging(facts: StudyFacts, stage: str, variants: tuple[str, ...], jobs: Sequence[JobFacts]) -> Merging:
    settings = facts.settings_of(jobs[0])
    method = str(settings.get("method") or "merge")
    reports = [job.merge_report for job in jobs if job.merge_report]
    return Merging(
        stage=stage,
        variants=variants,
        seeds=tuple(job.seed for job in jobs),
        reported=len(reports),
        method=method,
        meaning=METHODS.get(method, ""),
        settings=list(_settings(settings)),
        inputs=[_input(name, one, settings, jobs) for name, one in read_by(settings).items()],
        roles=_roles(reports),
        of_differences=bool(settings.get("base")),
        absent=_first(map(_absent, reports)),
        vocabulary=_first(map(_vocabulary, reports)),
        adapter=_first(map(_adapter, reports)),
        warnings=_warnings(jobs),
        duration_s=_mean(reports, "duration_s"),
        read_bytes=_mean(reports, "read_bytes"),
        written_bytes=_mean(reports, "written_bytes"),
        threads=next((known for report in reports if (known := whole(report.get("threads")))), None),
    )


def _settings(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is worth saying of a merge beside its models."""
    if settings.get("method") == "slerp":
        yield "t", f"{number(settings.get('t')):g}" if number(settings.get("t")) is not None else MISSING
    yield "definition", str(settings.get("compat") or "paper")
    if (scale := number(settings.get("scale"))) not in (None, 1.0):
        yield "difference multiplied with", f"{scale:g}"
    if settings.get("normalize") is not None:
        yield "divided by the sum of weights", "yes" if settings["normalize"] else "no"
    if settings.get("into") == "adapter":
        rank = whole(settings.get("result_rank"))
        yield "result", "an adapter" + (f" of rank {rank}" if rank else "")
    if settings.get("dtype"):
        yield "result's dtype", str(settings["dtype"])


def _input(name: str, one: Settings, settings: Settings, jobs: Sequence[JobFacts]) -> Input:
    is_base = name == BASE and bool(settings.get("base"))
    told = [job.merge_report.get("base") if is_base else _told(job.merge_report, name) for job in jobs]
    identities = [_identity(one if is_base else mapping(one).get("identity")) for one in told]
    kinds = [str(kind) for one in told if (kind := mapping(one).get("kind"))] if not is_base else []
    return Input(
        name=name,
        origin=where_from(one),
        jobs=tuple(dict.fromkeys(job.inputs[name] for job in jobs if name in job.inputs)),
        weight="" if is_base or settings.get("method") == "slerp" else _by_role(one, "weight", "weights"),
        density="" if is_base else _by_role(one, "density", "densities"),
        kind=_first(kinds),
        identities=tuple(dict.fromkeys(filter(None, identities))),
    )


def _told(report: Settings, name: str) -> Settings:
    return mapping(mapping(report.get("models")).get(name))


def _by_role(one: Settings, everywhere: str, by_role: str) -> str:
    """`0.6 (projector 0.3)`; empty where nothing was set."""
    value = number(one.get(everywhere))
    roles = {role: known for role, of in mapping(one.get(by_role)).items() if (known := number(of)) is not None}
    exceptions = ", ".join(f"{role} {known:g}" for role, known in roles.items())
    if value is None:
        return exceptions
    return f"{value:g}" + (f" ({exceptions})" if exceptions else "")


def _identity(told: object) -> str:
    """The part of an identity that tells it apart, short enough to compare by eye."""
    if isinstance(told, dict):
        named = next((told[key] for key in ("sha256", "fingerprint", "revision", "identity") if told.get(key)), None)
        told = told.get("name") if named is None else named
    return "" if told is None else str(told)[:_SHOWN_DIGITS]


def _roles(reports: Sequence[Settings]) -> list[Role]:
    by_name: dict[str, list[Settings]] = defaultdict(list)
    for report in reports:
        for name, role in mapping(report.get("roles")).items():
            by_name[str(name)].append(mapping(role))
    return [_role(name, found) for name, found in by_name.items()]


def _role(name: str, found: Sequence[Settings]) -> Role:
    return Role(
        name=name,
        tensors=whole(found[0].get("tensors")),
        parameters=whole(found[0].get("parameters")),
        differences=[
            Difference(model=model, zero_share=of("zero_share"), norm=of("norm"), relative_norm=of("relative_norm"))
            for model in _names(found, "models")
            for of in [_over_seeds([mapping(mapping(one.get("models")).get(model)) for one in found])]
        ],
        pairs=[
            Pair(names=" | ".join(pair.split("|")), cosine=of("cosine"), sign_conflict=of("sign_conflict"))
            for pair in _names(found, "cosine", "sign_conflict")
            for of in [_over_seeds([{key: mapping(one.get(key)).get(pair) for key in _PAIRED} for one in found])]
        ],
    )


_PAIRED = ("cosine", "sign_conflict")


def _names(found: Sequence[Settings], *keys: str) -> list[str]:
    return list(dict.fromkeys(str(name) for one in found for key in keys for name in mapping(one.get(key))))


def _over_seeds(of_seeds: Sequence[Settings]) -> Callable[[str], Spread]:
    return lambda key: spread(number(one.get(key)) for one in of_seeds)


def _absent(report: Settings) -> str:
    """Tensors that the base lacks, and what became of them."""
    told = mapping(report.get("absent"))
    tensors = whole(told.get("tensors"))
    if not tensors:
        return ""
    names = texts(told.get("names"))
    named = f": {listing(names)}" + (" and more" if tensors > len(names) else "") if names else ""
    return f"{plural(tensors, 'tensor')} that the base lacks ({told.get('policy')}){named}"


def _vocabulary(report: Settings) -> str:
    told = mapping(report.get("vocabulary"))
    if not told:
        return ""
    tokens = whole(told.get("tokens"))
    added = {name: n for name, of in mapping(told.get("added")).items() if (n := whole(of))}
    words = plural(tokens, "token") if tokens is not None else "tokens"
    more = ", ".join(f"{n:,} from {name}" for name, n in added.items())
    return f"matched by token: {words}" + (f", of these {more}" if more else "")


def _adapter(report: Settings) -> str:
    told = mapping(report.get("adapter"))
    if not told:
        return ""
    rank = f"one adapter of rank {whole(told.get('rank')) or MISSING}"
    if told.get("exact"):
        return f"{rank}, exactly the merged difference"
    worst = told.get("worst")
    module, held = worst if isinstance(worst, list) and len(worst) == 2 else ("", None)
    least = f"; least is held of {module}: {percent(number(held))}" if number(held) is not None else ""
    return f"{rank}, to which the merged difference was cut{least}"


def _warnings(jobs: Sequence[JobFacts]) -> list[str]:
    """Each once; with its seeds where not all of those that were reported on say it."""
    said: dict[str, list[int]] = defaultdict(list)
    reported = [job for job in jobs if job.merge_report]
    for job in reported:
        for warning in dict.fromkeys(texts(job.merge_report.get("warnings"))):
            said[warning].append(job.seed)
    return [
        warning if len(seeds) == len(reported) else f"{warning} (seed {listing([str(seed) for seed in seeds])})"
        for warning, seeds in said.items()
    ]


def _mean(reports: Sequence[Settings], key: str) -> float | None:
    return spread(number(report.get(key)) for report in reports).mean


def _first(words: Iterable[str]) -> str:
    return next(filter(None, words), "")


def merge_warnings(facts: StudyFacts) -> Iterator[str]:
    """For the list of what weakens a comparison."""
    for merging in merges(facts):
        for warning in merging.warnings:
            yield f"merge {merging.stage} of {listing(merging.variants, 4)}: {warning}"

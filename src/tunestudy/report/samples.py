"""Whether variants trained on the same samples, over all stages of a trial, whatever their order."""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from tunestudy.report.facts import JobFacts, StudyFacts
from tunestudy.report.format import listing
from tunestudy.report.values import mapping

_CHECKS = (
    ("epoch_sha256", frozenset({"data"}), "other training samples than"),
    (
        "samples_sha256",
        frozenset({"data", "steps", "tokens", "effective_batch_size"}),
        "the same training samples, but not as often each, as",
    ),
)
"""A digest in data.json, what a variant may declare to be left out of its comparison, and how a difference is told."""

_MODULUS = 2**256


def unequal_samples(facts: StudyFacts) -> Iterator[str]:
    """One line where variants that do not declare `data` drew other samples, or the same ones another number of times.

    A variant whose stages are among those of another is a point along its way and not compared with it.
    """
    told: dict[tuple[str, str], str] = {}
    for seed in facts.seeds:
        for key, exempt, words in _CHECKS:
            drawn = {
                name: digest
                for name, variant in facts.variants.items()
                if not exempt & set(variant.intends) and (digest := _digest(facts, name, seed, key)) is not None
            }
            for one, others in _unlike(facts, drawn):
                line = f"not on equal footing: {others} drew {words} {one}, counting all stages"
                told.setdefault((one, others), f"{line}; declare it with `intends: [data]` if it is meant")
    yield from told.values()


def _digest(facts: StudyFacts, variant: str, seed: int, key: str) -> int | None:
    """Sum of the digests of a trial's stages, each a sum over samples; None before all that train are known."""
    found = [_of_job(job, key) for job in facts.trial(variant, seed)]
    known = [digest for digest in found if digest is not None]
    wanted = len(_trained(facts, variant))
    return sum(known) % _MODULUS if known and len(known) == wanted else None


def _trained(facts: StudyFacts, variant: str) -> set[str]:
    """Stages that draw samples: a merge draws none, nor does a stage that only installs an untrained world part."""
    stages = facts.variants[variant].stages.items()
    installing = {name for name, settings in stages if settings.get("world") and settings.get("train") == "none"}
    return {name for name, settings in stages if settings.get("type") != "merge"} - installing


def _of_job(job: JobFacts, key: str) -> int | None:
    digest = str(mapping(job.data.get("drawn")).get(key))
    return int(digest, 16) if re.fullmatch("[0-9a-f]{64}", digest) else None


def _unlike(facts: StudyFacts, drawn: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(variant, the others that drew something else); a variant that was named among others is not asked again."""
    stages = {name: _trained(facts, name) for name in drawn}
    unlike: dict[str, list[str]] = defaultdict(list)
    named: set[str] = set()
    for one, other in combinations(drawn, 2):
        along_the_way = stages[one] < stages[other] or stages[other] < stages[one]
        if drawn[one] != drawn[other] and not along_the_way and not {one, other} & named:
            unlike[one].append(other)
        named |= set(unlike[one])
    yield from ((one, listing(others)) for one, others in unlike.items() if others)

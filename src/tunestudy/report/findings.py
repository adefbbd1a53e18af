"""What a careful reader wants pointed out: unequal footing, leaks, failures, missing results, broken conditions."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tunestudy.config.conditions import condition_in
from tunestudy.config.errors import StudyError, at
from tunestudy.records.redact import redact
from tunestudy.report.compare import Cell, Headline
from tunestudy.report.facts import JobFacts, Settings, StudyFacts
from tunestudy.report.format import listing, plural, sig
from tunestudy.report.merges import merge_warnings
from tunestudy.report.mixtures import collapses
from tunestudy.report.overfit import RISE_FLAGGED, find_fits
from tunestudy.report.overlap import overlap_warnings
from tunestudy.report.samples import unequal_samples
from tunestudy.report.values import mapping, number, texts, whole

MOST_ALERTS = 200
_FOOTING = {
    "tokens": "tokens",
    "steps": "optimiser steps",
    "effective_batch_size": "effective batch size",
    "eval_ids_sha256": "evaluation rows during training",
}
_INTENT_OF = {"eval_ids_sha256": "evaluation"}


def warnings_of(facts: StudyFacts, headline: Headline) -> list[str]:
    """Everything that weakens a comparison, most serious first. Empty when nothing was found."""
    found = [
        *_overlaps(facts),
        *overlap_warnings(facts),
        *_unequal_footing(facts),
        *unequal_samples(facts),
        *_unequal_rows(facts),
        *_counted_wrong(facts),
        *_missing(headline, facts),
        *_overfits(facts),
        *merge_warnings(facts),
        *collapses(facts),
        *facts.plan_warnings,
        *(f"could not be read and was left out: {name}" for name in facts.unreadable),
        *_hosts(facts),
        *_origins(facts),
    ]
    return list(dict.fromkeys(found))


def _overlaps(facts: StudyFacts) -> Iterator[str]:
    """One line per different overlap: the jobs of one data set all report the same."""
    seen: dict[tuple[int, str], list[str]] = defaultdict(list)
    for job in facts.jobs:
        overlap = mapping(job.data.get("overlap"))
        rows = whole(overlap.get("rows")) or 0
        if rows:
            seen[rows, listing(texts(overlap.get("examples"))[:3])].append(job.stage)
    for (rows, examples), stages in seen.items():
        where = listing(sorted(set(stages)))
        named = f", such as {examples}" if examples else ""
        yield f"{plural(rows, 'evaluation row')} also in the training data of {where}{named}: scores may be too high"


def _unequal_footing(facts: StudyFacts) -> Iterator[str]:
    """Jobs of one stage and seed that differ between variants in what should be equal, unless that was declared."""
    told: dict[tuple[str, str], str] = {}
    for job_group in _same_stage_and_seed(facts):
        for name, words in _FOOTING.items():
            values = {
                listing(job.variants): getattr(job.training, name)
                for job in job_group
                if job.training and getattr(job.training, name) is not None and not _declared(facts, job, name)
            }
            if len(set(values.values())) > 1:
                told.setdefault((job_group[0].stage, name), _footing_words(job_group[0].stage, words, values))
    yield from told.values()


def _same_stage_and_seed(facts: StudyFacts) -> list[list[JobFacts]]:
    groups: dict[tuple[str, int], list[JobFacts]] = defaultdict(list)
    for job in facts.jobs:
        groups[job.stage, job.seed].append(job)
    return [group for group in groups.values() if len(group) > 1]


def _declared(facts: StudyFacts, job: JobFacts, name: str) -> bool:
    known = [facts.variants[variant] for variant in job.variants if variant in facts.variants]
    return any(_INTENT_OF.get(name, name) in variant.intends for variant in known)


def _footing_words(stage: str, words: str, values: dict[str, Any]) -> str:
    if all(isinstance(value, str) for value in values.values()):
        return f"not on equal footing: stage {stage} differs in {words} between {listing(list(values))}"
    each = listing([f"{variant}: {value:,}" for variant, value in values.items()])
    return f"not on equal footing: stage {stage} differs in {words} ({each}); declare it with `intends` if it is meant"


def _unequal_rows(facts: StudyFacts) -> Iterator[str]:
    for benchmark in facts.benchmarks:
        hashes: dict[str, set[str]] = defaultdict(set)
        for variant in facts.variants:
            for job in facts.last_jobs(variant):
                if (score := job.scores.get(benchmark)) and score.rows_sha256:
                    hashes[score.rows_sha256].add(variant)
        if len(hashes) > 1:
            groups = " | ".join(listing(sorted(group)) for group in hashes.values())
            yield f"benchmark {benchmark} was not scored on the same rows everywhere: {groups}"


COUNTS = {
    "unparsed": "answers in which none was found",
    "undecodable": "questions whose image could not be decoded",
    "unjudged": "answers that the judge did not judge",
}
"""Rows that count as wrong, and why."""
_SHORT = {"unparsed": "not understood", "undecodable": "not decoded", "unjudged": "not judged"}
SHORT_COUNTS = {COUNTS[kind]: words for kind, words in _SHORT.items()}
"""The same in short, by the words above."""


def counted(facts: StudyFacts, variant: str, benchmark: str) -> dict[str, tuple[int, int]]:
    """By words of `COUNTS`: (rows, of how many), over all seeds of a variant; only what occurred."""
    scores = [job.scores[benchmark] for job in facts.last_jobs(variant) if benchmark in job.scores]
    rows = sum(score.rows or 0 for score in scores)
    sums = {words: sum(score.counts.get(kind, 0) for score in scores) for kind, words in COUNTS.items()}
    return {words: (number, rows) for words, number in sums.items() if number}


def _counted_wrong(facts: StudyFacts) -> Iterator[str]:
    for benchmark in facts.benchmarks:
        told: dict[str, list[str]] = defaultdict(list)
        for variant in facts.variants:
            for words, (rows, of) in counted(facts, variant, benchmark).items():
                told[words].append(f"{variant} {rows:,} of {of:,}")
        for words, each in told.items():
            yield f"benchmark {benchmark}: {words} count as wrong ({listing(each)})"


def _missing(headline: Headline, facts: StudyFacts) -> Iterator[str]:
    gaps: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for cell in headline.cells:
        lost = tuple(seed for seed in cell.missing if not _is_coming(facts, cell.variant, seed))
        if cell.primary and lost and cell.points:
            gaps[cell.variant, lost].append(cell.benchmark)
    for (variant, seeds), benchmarks in gaps.items():
        where = f"seed {listing([str(seed) for seed in seeds])}"
        yield f"{variant} has no result at {where} ({listing(benchmarks)}): its means cover fewer seeds than others"
    if facts.state == "finished":
        return
    left = len(facts.jobs) - facts.count("done")
    if left and facts.count("done"):
        yield f"{plural(left, 'job')} of {len(facts.jobs)} not done: every number here may still change"


def _is_coming(facts: StudyFacts, variant: str, seed: int) -> bool:
    """Whether a missing result is only a matter of time: none of its jobs has failed, and the study goes on."""
    return facts.state == "running" and not any(job.status == "failed" for job in facts.trial(variant, seed))


def _overfits(facts: StudyFacts) -> Iterator[str]:
    for fit in find_fits(facts):
        if fit.flagged:
            seeds = f"at {fit.flagged} of {plural(len(fit.trials), 'seed')}"
            yield (
                f"{fit.variant} over-fits in stage {fit.stage} {seeds}: the last held-out loss is more than "
                f"{RISE_FLAGGED:.0%} above the lowest"
            )


def _hosts(facts: StudyFacts) -> Iterator[str]:
    versions: dict[str, set[str]] = defaultdict(set)
    for job in facts.jobs:
        for package, version in mapping(job.environment.get("packages")).items():
            versions[str(package)].add(str(version))
    for package, found in sorted(versions.items()):
        if len(found) > 1:
            yield f"jobs ran with different versions of {package}: {listing(sorted(found))}"


def _origins(facts: StudyFacts) -> Iterator[str]:
    """Compared results that come from other code, another version of a benchmark, or other rows of a data set."""
    commits = {_commit(job) for job in facts.jobs} - {""}
    if len(commits) > 1:
        yield f"jobs ran from different commits of the code: {listing(sorted(commits))}"
    versions: dict[str, set[str]] = defaultdict(set)
    rows: dict[tuple[str, str], set[int]] = defaultdict(set)
    for job in facts.jobs:
        for name, score in job.scores.items():
            versions[name].add(score.version)
        for name, source in mapping(job.data.get("sources")).items():
            if (read := whole(mapping(source).get("read"))) is not None:
                rows[job.stage, str(name)].add(read)
    for name, found in versions.items():
        if len(found) > 1:
            yield f"benchmark {name} was scored in different versions: {listing(sorted(found))}"
    for (stage, name), counts in rows.items():
        if len(counts) > 1:
            each = listing([f"{count:,}" for count in sorted(counts)])
            yield f"data set {name} did not have the same records in all jobs of stage {stage}: {each} were read"


def _commit(job: JobFacts) -> str:
    """The first digits, and whether there were uncommitted changes; empty when nothing was recorded."""
    git = mapping(job.environment.get("git"))
    commit = str(git.get("commit") or "")[:12]
    return f"{commit} with uncommitted changes" if commit and git.get("dirty") else commit


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A failed attempt and what came of it."""

    when: float | None
    job: str
    attempt: int | None
    kind: str
    message: str
    step: int | None
    signal: str
    exit_code: int | None
    log: str
    outcome: str


def problems(facts: StudyFacts) -> list[Problem]:
    """Failed attempts in the order of time: the issues of EXPERIMENT.md. The launcher's journal knows of all of them;
    a failure.json without an entry there (a worker started by hand) is added."""
    by_id = {job.id: job for job in facts.jobs}
    failed = [event for event in facts.events if event.get("event") == "job_failed"]
    found = [_problem(event, _outcome(facts, by_id.get(str(event.get("job"))), event)) for event in failed]
    told = {problem.job for problem in found}
    unseen = [job for job in facts.jobs if job.failure and job.id not in told]
    return found + [_problem({"job": job.id, **asdict(job.failure)}, "open") for job in unseen if job.failure]


def _problem(told: Settings, outcome: str) -> Problem:
    return Problem(
        when=number(told.get("t")),
        job=str(told.get("job") or ""),
        attempt=whole(told.get("attempt")),
        kind=str(told.get("kind") or "error"),
        message=str(told.get("message") or "no message was recorded"),
        step=whole(told.get("step")),
        signal=str(told.get("signal") or ""),
        exit_code=whole(told.get("exit_code")),
        log=str(told.get("log") or ""),
        outcome=outcome,
    )


def _outcome(facts: StudyFacts, job: JobFacts | None, event: Settings) -> str:
    if job is None:
        return "the job is no longer part of the plan"
    retry = _retry_after(facts, job, event)
    change = f" ({retry['change']})" if retry and retry.get("change") else ""
    if job.status == "done":
        return f"solved: done at attempt {facts.attempts(job)}{change}"
    return "open" if retry is None else f"tried again{change}"


def _retry_after(facts: StudyFacts, job: JobFacts, event: Settings) -> Settings | None:
    """What the launcher did about a failed attempt, if it did anything."""
    mine = [other for other in facts.events if other.get("event") == "job_retried" and other.get("job") == job.id]
    return next((other for other in mine if other.get("t", 0) >= event.get("t", 0)), None)


def alerts(facts: StudyFacts) -> list[tuple[Settings, str]]:
    """What called for attention while jobs ran, in the order of time, each with its words; the latest of very many."""
    found = [event for event in facts.events if event.get("event") == "alert"][-MOST_ALERTS:]
    return [
        (one, f"{one.get('job') or 'study'} ({one.get('kind')}): {redact(str(one.get('message')))}"[:400])
        for one in found
    ]


def broken_requirements(facts: StudyFacts, headline: Headline) -> list[str]:
    """The conditions of `report.require` that the means do not meet, in words; a missing mean meets none."""
    required = {str(key): str(value) for key, value in mapping(facts.report.get("require")).items()}
    named = {key for key in required if not key.startswith("*.")}
    broken = []
    for key, condition in required.items():
        try:
            holds = condition_in(condition)
        except ValueError as error:
            raise StudyError(at(f"report.require.{key}"), str(error)) from error
        for cell in _cells_of(headline, key, named):
            mean = cell.summary.mean
            name = f"{cell.variant}.{cell.benchmark}"
            if mean is None:
                broken.append(f"{name} should be {condition}, but there is no result")
            elif not holds(mean):
                broken.append(f"{name} should be {condition}, but is {sig(mean)}")
    return broken


def _cells_of(headline: Headline, key: str, named: set[str]) -> list[Cell]:
    """Of `*.benchmark` all variants but those that are named."""
    of_all, wanted = key.startswith("*."), key.removeprefix("*.")
    primary = [(f"{cell.variant}.{cell.benchmark}", cell) for cell in headline.cells if cell.primary]
    known = {cell.benchmark if of_all else name for name, cell in primary}
    if wanted not in known:
        message = f"names no variant and benchmark of this study: {listing(sorted(known))}"
        raise StudyError(at(f"report.require.{key}"), message)
    if of_all:
        return [cell for name, cell in primary if cell.benchmark == wanted and name not in named]
    return [cell for name, cell in primary if name == wanted]

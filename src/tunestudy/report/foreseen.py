"""What jobs were expected to take before they began, against what they took: time by term, and memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunestudy.report.facts import JobFacts, StudyFacts, mean
from tunestudy.report.format import MISSING, duration, listing, memory_mb, minus
from tunestudy.report.markdown import escape, table
from tunestudy.report.values import mapping, number

_TIMES = {"training": "train_s", "evaluation": "eval_s", "checkpoints": "save_s"}
"""Term of an estimate → the figure of a result."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One term of one stage: means over its jobs that were foreseen and have finished."""

    stage: str
    variants: str
    what: str
    expected: float
    truth: float
    text: tuple[str, str]
    """Both, with their unit."""

    @property
    def off_by_text(self) -> str:
        """`+12 %` when it took more than expected."""
        if not self.expected:
            return MISSING
        return minus(f"{self.truth / self.expected - 1:+.0%}".replace("%", " %"))


def foreseen(facts: StudyFacts) -> list[Foreseen]:
    """Rows by stage, in the plan's order; none where nothing was foreseen."""
    groups: dict[tuple[str, tuple[str, ...]], list[JobFacts]] = {}
    for job in facts.jobs:
        if job.training is not None and job.training.steps and job.expected:
            groups.setdefault((job.stage, job.variants), []).append(job)
    return [row for (stage, variants), jobs in groups.items() for row in _of_stage(stage, variants, jobs)]


def _of_stage(stage: str, variants: Sequence[str], jobs: Sequence[JobFacts]) -> Iterator[Foreseen]:
    terms = [(name, key, duration) for name, key in _TIMES.items()]
    for name, key, as_text in (*terms, ("peak memory", "peak_memory_mb", memory_mb)):
        pairs = [
            (foretold, float(true))
            for job in jobs
            if (foretold := _expected(job, name)) is not None and (true := getattr(job.training, key)) is not None
        ]
        expected, truth = (mean([pair[place] for pair in pairs]) for place in (0, 1))
        if expected is not None and truth is not None and (expected or truth):
            yield Foreseen(
                stage=stage,
                variants=listing(variants, 3),
                what=name,
                expected=expected,
                truth=truth,
                text=(as_text(expected), as_text(truth)),
            )


def _expected(job: JobFacts, what: str) -> float | None:
    if what == "peak memory":
        return number(job.expected.get("peak_memory_mb"))
    return number(mapping(job.expected.get("terms_s")).get(what))


def foreseen_table(facts: StudyFacts) -> str:
    """For EXPERIMENT.md; empty where nothing was foreseen."""
    rows = [
        (escape(row.stage), escape(row.variants), row.what, *row.text, row.off_by_text) for row in foreseen(facts)[:200]
    ]
    return table(("stage", "variants", "what", "expected", "took", "off by"), rows) if rows else ""

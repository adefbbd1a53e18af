"""The experiments of a study: when each ran, how long it took, and how long it was expected to take."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunestudy.report.facts import JobFacts, StudyFacts
from tunestudy.report.format import MISSING, duration, minus, moment
from tunestudy.report.markdown import code, escape, table


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A variant over all its seeds and stages, shared stages included. None: not known (yet)."""

    variant: str
    finished: int
    jobs: int
    start: float | None
    end: float | None
    """Of the last job that has finished."""
    took_s: float | None
    """Training of all finished jobs; several may have run at once."""
    expected_s: float | None
    """Of the same jobs, as foreseen before each began; None unless all of them were foreseen."""
    folder: str

    @property
    def off_by(self) -> float | None:
        """How much longer it took than expected, as a share of what was expected; negative when it was faster."""
        if not self.expected_s or self.took_s is None:
            return None
        return self.took_s / self.expected_s - 1

    @property
    def off_by_text(self) -> str:
        return MISSING if self.off_by is None else minus(f"{self.off_by:+.0%}".replace("%", " %"))


def experiments(facts: StudyFacts) -> list[Experiment]:
    """One per variant, in the study's order."""
    jobs: dict[str, list[JobFacts]] = {variant: [] for variant in facts.variants}
    for job in facts.jobs:
        for variant in job.variants:
            jobs.get(variant, []).append(job)
    return [_over(variant, own, folder=f"trials/{variant}") for variant, own in jobs.items()]


def whole_study(facts: StudyFacts) -> Experiment:
    """Every job once."""
    return _over("whole study", facts.jobs, folder="jobs")


def _over(name: str, jobs: Sequence[JobFacts], *, folder: str) -> Experiment:
    trained = [(job, job.training) for job in jobs if job.training and job.training.duration_s is not None]
    expected = [job.expected_s for job, _ in trained]
    starts = [training.started_at for _, training in trained if training.started_at is not None]
    ends = [training.finished_at for _, training in trained if training.finished_at is not None]
    return Experiment(
        variant=name,
        finished=sum(job.status == "done" for job in jobs),
        jobs=len(jobs),
        start=min(starts, default=None),
        end=max(ends, default=None),
        took_s=sum(training.duration_s or 0.0 for _, training in trained) if trained else None,
        expected_s=sum(known for known in expected if known) if expected and None not in expected else None,
        folder=folder,
    )


def tracking_table(facts: StudyFacts) -> str:
    """For EXPERIMENT.md."""
    rows = [
        (
            escape(one.variant),
            f"{one.finished} of {one.jobs}",
            moment(one.start),
            moment(one.end),
            duration(one.took_s),
            duration(one.expected_s),
            one.off_by_text,
            code(one.folder),
        )
        for one in (*experiments(facts), whole_study(facts))
    ]
    heads = ("experiment", "jobs done", "start", "end", "took", "expected", "off by", "folder")
    return table(heads, rows)

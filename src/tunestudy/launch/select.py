"""Which jobs of a plan `run --only` and `--seeds` ask for."""

from collections.abc import Iterable, Sequence

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.study.nearest import did_you_mean


def select(jobs: Sequence[Job], only: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The asked-for jobs and everything they start from, in the plan's order; all jobs when nothing is asked for.

    `only`: `VARIANT` or `VARIANT@STAGE`. Raises StudyError for a variant, stage or seed that the plan does not have.
    """
    for seed in seeds:
        must_be_known("--seeds", str(seed), {str(job.seed) for job in jobs})
    wanted = [job for job in jobs if (not seeds or job.seed in seeds)]
    if only:
        asked = [_parsed(text, jobs) for text in only]
        wanted = [
            job
            for job in wanted
            if any(variant in job.variants and stage in (None, job.stage) for variant, stage in asked)
        ]
    return _with_ancestors(jobs, {job.id for job in wanted})


def _parsed(text: str, jobs: Sequence[Job]) -> tuple[str, str | None]:
    variant, _, stage = text.partition("@")
    must_be_known("--only", variant, {name for job in jobs for name in job.variants})
    if stage:
        must_be_known(f"--only {text}", stage, {job.stage for job in jobs if variant in job.variants})
    return variant, stage or None


def must_be_known(where: str, name: str, known: Iterable[str]) -> None:
    """Raise StudyError unless the study has `name`; where: the option that asks for it."""
    known = sorted(known)
    if name not in known:
        raise StudyError(where, f"the study has no `{name}`; {did_you_mean(name, known)}")


def _with_ancestors(jobs: Sequence[Job], ids: set[str]) -> list[Job]:
    chosen: list[Job] = []
    for job in reversed(jobs):  # parents come first in a plan, so children are met before them here
        if job.id in ids:
            ids |= set(job.needs)
            chosen.append(job)
    return chosen[::-1]

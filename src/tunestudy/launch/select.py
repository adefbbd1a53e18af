"""Which jobs of a plan `run --only` and `--seeds` ask for."""

import difflib
from collections.abc import Iterable, Sequence

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job


def select(jobs: Sequence[Job], only: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The asked-for jobs and everything they start from, in the plan's order; all jobs when nothing is asked for.

    `only`: `VARIANT` or `VARIANT@STAGE`. Raises StudyError for a variant, stage or seed that the plan does not have.
    """
    for seed in seeds:
        _must_be_known("--seeds", str(seed), {str(job.seed) for job in jobs})
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
    _must_be_known("--only", variant, {name for job in jobs for name in job.variants})
    if stage:
        _must_be_known(f"--only {text}", stage, {job.stage for job in jobs if variant in job.variants})
    return variant, stage or None


def _must_be_known(where: str, name: str, known: Iterable[str]) -> None:
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        raise StudyError(where, f"the study has no {name!r}; {cure}")


def _with_ancestors(jobs: Sequence[Job], ids: set[str]) -> list[Job]:
    chosen: list[Job] = []
    for job in reversed(jobs):  # parents come first in a plan, so children are met before them here
        if job.id in ids:
            ids |= set(job.needs)
            chosen.append(job)
    return chosen[::-1]

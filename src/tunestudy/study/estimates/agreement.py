"""What `estimate:` states of a job that several variants share."""

from collections.abc import Sequence

from tunestudy.config.errors import StudyError
from tunestudy.config.estimate import Prior
from tunestudy.config.job import Job
from tunestudy.study.load import LoadedStudy, locate


def require_agreement(loaded: LoadedStudy, jobs: Sequence[Job]) -> None:
    """Raise StudyError at the second of two statements that contradict each other: one of them would be dropped."""
    for job in jobs:
        first: dict[str, str] = {}
        for variant in job.variants:
            name = f"{variant}.{job.stage}"
            for key in Prior.model_fields if name in loaded.study.estimate.stages else ():
                if getattr(loaded.study.estimate.stages[name], key) is not None:
                    _require_equal(loaded, key, first.setdefault(key, name), name)


def _require_equal(loaded: LoadedStudy, key: str, one: str, other: str) -> None:
    stated = loaded.study.estimate.stages
    if getattr(stated[one], key) == getattr(stated[other], key):
        return
    here, there = (
        locate(loaded.source, loaded.raw_variants, ("estimate", "stages", name, key)) for name in (other, one)
    )
    stage = other.rpartition(".")[2]
    why = f"{there} states another number of the same job, which both variants share"
    raise StudyError(here, f"{why}; keep one of them, or state it of the stage `{stage}`")

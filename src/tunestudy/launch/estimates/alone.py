"""A stage by itself, as it is timed and counted."""

from collections.abc import Iterator

from tunestudy.config.job import Job
from tunestudy.study.costs import trains
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.show import groups_of


def alone(plan: Plan, job: Job) -> Job:
    """The job as if its stage were the first, with the components that an earlier stage has added."""
    assert job.training is not None
    settings = job.training.model_copy(update={"init": "base"})
    if settings.components is None:
        by_id = {planned.job.id: planned.job for planned in plan.jobs}
        for parent in _line(job, by_id):
            if parent.training is not None and parent.training.components is not None:
                settings = settings.model_copy(update={"components": parent.training.components})
                break
    return job.model_copy(update={"id": f"alone-{job.id}", "parents": (), "settings": settings, "evaluations": {}})


def _line(job: Job, by_id: dict[str, Job]) -> Iterator[Job]:
    """Parents, nearest first."""
    while job.parents and job.parents[-1] in by_id:
        job = by_id[job.parents[-1]]
        yield job


def stages_of(plan: Plan) -> list[PlannedJob]:
    """The first job of each stage that trains."""
    firsts = [group.jobs[0] for group in groups_of(plan.jobs)]
    return [one for one in firsts if trains(one.job)]

"""A stage by itself, as it is timed and counted."""

from tunestudy.config.job import Job
from tunestudy.study.estimates.costs import trains
from tunestudy.study.estimates.timing import with_components
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.show import groups_of


def alone(plan: Plan, job: Job) -> Job:
    """The job as if its stage were the first, with the components that an earlier stage has added."""
    assert job.training is not None
    settings = with_components(plan, job.training.model_copy(update={"init": "base"}), job)
    return job.model_copy(update={"id": f"alone-{job.id}", "parents": (), "settings": settings, "evaluations": {}})


def stages_of(plan: Plan) -> list[PlannedJob]:
    """The first job of each stage that trains."""
    firsts = [group.jobs[0] for group in groups_of(plan.jobs)]
    return [one for one in firsts if trains(one.job)]

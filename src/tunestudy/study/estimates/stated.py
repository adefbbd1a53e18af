"""Times that follow from what the study's `estimate:` states: for what was neither run nor timed."""

import math

from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.study.plan import Plan, PlannedJob


def stated_seconds(plan: Plan) -> dict[str, float]:
    """Seconds of a job's steps, evaluations, checkpoints and start, by its id."""
    found = {}
    for planned in plan.jobs:
        seconds = _of_job(plan.study, planned)
        if seconds is not None:
            found[planned.job.id] = seconds
    return found


def _of_job(study: Study, planned: PlannedJob) -> float | None:
    settings = planned.job.training
    if settings is None or settings.trains_nothing:
        return None
    stated = study.estimate.prior(planned.job.stage, planned.job.variants)
    if stated.training_s is None and (stated.step_s is None or planned.steps is None):
        return None
    counts = (
        (1, stated.training_s) if stated.training_s else (planned.steps, stated.step_s),
        (num_evaluations(study, settings, planned.steps), stated.evaluation_s),
        (planned.checkpoints, stated.save_s),
        (1, stated.start_s),
    )
    return sum(count * sum(one) / 2 for count, one in counts if count and one)


def stated_benchmarks(plan: Plan) -> dict[str, float]:
    """Seconds of all benchmarks of a job, by its id."""
    found = {}
    for planned in plan.jobs:
        stated = plan.study.estimate.prior(planned.job.stage, planned.job.variants).benchmarks_s
        if stated is not None and planned.job.evaluations:
            found[planned.job.id] = sum(stated) / 2
    return found


def num_evaluations(study: Study, settings: TrainStage, steps: int | None) -> int | None:
    """As many as the loop will make, as far as the plan knows the epochs."""
    held_out = any(study.datasets[part.dataset.partition("@")[0]].held_out for part in settings.data)
    if not settings.eval_data and not held_out:
        return 0
    if steps is None:
        return None
    on_beat = steps // settings.eval_steps if settings.eval_steps else 0
    at_ends = math.ceil(settings.num_train_epochs) if settings.max_steps is None else 1
    return on_beat + (at_ends if settings.eval_on_epoch_end else 0) + settings.eval_on_start

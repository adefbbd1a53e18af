"""Who was trained from whom: a difference that holds another's difference as well counts that twice."""

from collections.abc import Mapping

from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.config.merge import BASE, TASK_VECTORS
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import JobDir, StudyDir


def check_lineage(job: Job, folder: JobDir) -> list[str]:
    """Warnings about descent among the job's inputs that are results of stages.

    Raises StudyError where one model holds all of another's difference, unless `allow_descendants`.
    """
    settings = job.merging
    assert settings is not None
    held = {name: ancestors(folder.study, job_id) for name, job_id in job.inputs.items()}
    models = {name: one for name, one in job.inputs.items() if name in settings.models}
    of_base = held.get(BASE, set()) | {job.inputs.get(BASE, "")}
    warnings = []
    for young, old in _descents(models, held):
        message = f"`{young}` was trained from `{old}`, so its difference holds that of `{old}` as well"
        if settings.method not in TASK_VECTORS:
            warnings.append(f"`{young}` was trained from `{old}`: the result lies on the way from one to the other")
        elif models[old] not in of_base and not settings.allow_descendants:
            cure = f"take `{old}` as the base, train both from one model, or set allow_descendants: true"
            raise StudyError(at(f"stages.{job.stage}.models.{young}"), f"{message}, and it would count twice; {cure}")
        elif models[old] not in of_base:
            warnings.append(f"{message}; allowed")
    if BASE in job.inputs:
        strangers = [f"`{name}`" for name, one in models.items() if job.inputs[BASE] not in {one, *held[name]}]
        if strangers:
            warnings.append(f"{', '.join(strangers)}: not trained from the base; differences hold more than training")
    return warnings


def ancestors(study: StudyDir, job_id: str) -> set[str]:
    """Ids of all jobs whose weights went into a job's: those that it was trained from, or merged of."""
    found: set[str] = set()
    waiting = [job_id]
    while waiting:
        content = read_json(study.job(waiting.pop()).job_json)
        inputs = (content or {}).get("inputs") or {}
        merges = ((content or {}).get("settings") or {}).get("type") == "merge"
        for parent in [*((content or {}).get("parents") or ()), *(inputs.values() if merges else ())]:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _descents(models: Mapping[str, str], held: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(descendant, ancestor) by the names of the models."""
    return [(young, old) for young in models for old, its_id in models.items() if its_id in held[young]]

"""Whether the study file still says what ran: a report is of what is on disk, whatever the file says since."""

from pathlib import Path

from tunestudy.config.errors import StudyError
from tunestudy.records.atomic import read_object
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan

MOST_CHANGES = 10


def stale_lines(loaded: LoadedStudy, results: Path) -> list[str]:
    """What the file says otherwise than the plan that ran, with what to do; empty where nothing differs.

    A file that cannot be planned here, where its data are not, hinders no report: then that is the line.
    """
    try:
        plan = make_plan(loaded, results)
    except StudyError as error:
        return [f"whether the study file has changed since this ran cannot be told here: {error}"]
    ran = read_object(plan.folder.plan_json).get("jobs")
    entries = [entry for entry in ran if isinstance(entry, dict)] if isinstance(ran, list) else []
    gone = len({str(entry.get("id")) for entry in entries} - {planned.job.id for planned in plan.jobs})
    left = gone - sum(len(change.jobs) for change in plan.changes if change.kind == "changed")
    lines = [f"  {change}" for change in plan.changes[:MOST_CHANGES]]
    if len(plan.changes) > MOST_CHANGES:
        lines.append(f"  and {len(plan.changes) - MOST_CHANGES} more; `tunestudy plan {loaded.typed}` shows all")
    if left > 0:
        count = f"{left} jobs of what ran are" if left > 1 else "1 job of what ran is"
        lines.append(f"  {count} not in it any more")
    if not lines:
        return []
    head = "The study file has changed since this ran, and the table is of what ran. "
    return [f"{head}`tunestudy run {loaded.typed}` would bring it up to date:", *lines]

"""Removing what a study no longer has."""

from pathlib import Path

from tunestudy.records.atomic import remove_tree
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan
from tunestudy.study.show import bytes_text
from tunestudy.study.state import is_running


def clean_lines(loaded: LoadedStudy, results: Path, *, delete: bool) -> list[str]:
    """Orphaned job directories with sizes; `delete` removes those that no process is working on."""
    plan = make_plan(loaded, results)
    if not plan.orphans:
        return ["nothing to clean: every job directory belongs to the study"]
    lines = []
    for orphan in plan.orphans:
        job = plan.folder.job(orphan.id)
        busy = is_running(job)
        if delete and not busy:
            remove_tree(job.root)
        lines.append(f"{orphan.id}  {bytes_text(orphan.size_bytes)}{'  (still running, kept)' if busy else ''}")
    total = bytes_text(sum(orphan.size_bytes for orphan in plan.orphans))
    return [*lines, f"{total} deleted" if delete else f"{total} in all; `clean --yes` deletes them"]

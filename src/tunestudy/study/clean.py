"""Removing what a study no longer has or needs. Everything is listed with its size; what is deleted was asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import remove_tree
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.space import bytes_text
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan
from tunestudy.study.unused import Item, Unused

MOST_LINES = 50


def clean_lines(
    loaded: LoadedStudy,
    results: Path,
    *,
    delete: bool,
    caches: bool = False,
    checkpoints: bool = False,
    leftovers: bool = False,
    queued: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """What can go, by kind, with sizes. `delete` removes orphaned jobs, and of the other kinds those that are asked
    for; never what a process works on, a setting names or the file has without the settings that were typed, nor
    anything outside of the study's results. queued: job id → where it waits, though no process of ours lives."""
    plan = make_plan(loaded, results)
    if not plan.folder.root.is_dir():
        raise StudyError(str(plan.folder.root), "there is no such results folder, so nothing to clean; see --results")
    written = as_written(loaded)
    written_plan = plan if written is loaded else make_plan(written, results, brief=True)
    unused = Unused(loaded, plan, written=written, written_plan=written_plan, queued=queued)
    lines = _orphan_lines(list(unused.orphans()), delete=delete)
    kinds = (
        ("checkpoints that finished jobs need not keep", "checkpoints", unused.checkpoints, checkpoints),
        ("caches that no job of the study reads", "caches", unused.caches, caches),
        ("leftovers of what was killed", "leftovers", unused.leftovers, leftovers),
    )
    for title, option, find, wanted in kinds:
        items = list(find())
        if items:
            lines += _kind_lines(title, option, items, delete=delete and wanted)
    if caches and unused.is_busy:
        lines.append("caches are left alone: a process works on the study, or jobs of it are queued")
    return lines or ["nothing to clean: every job directory belongs to the study"]


def as_written(loaded: LoadedStudy) -> LoadedStudy:
    """The study as its file has it, without the settings that were typed. Raises StudyError where it is wrong then."""
    if not loaded.overrides:
        return loaded
    try:
        return load_study(loaded.path, tiny=loaded.tiny)
    except StudyError as error:
        why = f"without {' '.join(loaded.overrides)} the file is wrong, and `clean` keeps what it has"
        raise StudyError(error.place, f"{error.message}; {why}") from None


def _orphan_lines(orphans: Sequence[Item], *, delete: bool) -> list[str]:
    if not orphans:
        return []
    gone = [delete and _deleted(item) for item in orphans]
    lines = []
    for item, done in zip(orphans, gone, strict=True):
        kept = item.kept or ("in use, kept" if delete and not done else "")
        lines.append(f"{item.name}  {bytes_text(item.size_bytes)}{f'  ({kept})' if kept else ''}")
    meant = gone if delete else [not item.kept for item in orphans]
    total = bytes_text(sum(item.size_bytes for item, one in zip(orphans, meant, strict=True) if one))
    return [*lines, f"{total} deleted" if delete else f"{total} in all; `clean --yes` deletes them"]


def _kind_lines(title: str, option: str, items: Sequence[Item], *, delete: bool) -> Iterator[str]:
    gone = [item for item in items if delete and _deleted(item)]
    total = bytes_text(sum(item.size_bytes for item in (gone if delete else items)))
    yield f"{title}: {total}" + (" deleted" if delete else f"; `clean --yes --{option}` deletes them")
    for item in items[:MOST_LINES]:
        kept = item.kept or ("in use, kept" if delete and item not in gone else "")
        yield f"  {item.name}  {bytes_text(item.size_bytes)}{f'  ({kept})' if kept else ''}"
    if len(items) > MOST_LINES:
        yield f"  … and {len(items) - MOST_LINES} more"


def _deleted(item: Item) -> bool:
    """Delete it under its lease; False when it is to be kept, or someone has just begun to use it."""
    if item.kept:
        return False
    try:
        if item.lease is None:
            _remove(item.paths)
            return True
        with Lease.acquire(item.lease):
            _remove(item.paths)
    except LeaseHeldError:
        return False
    except OSError as error:
        cause = f"cannot be deleted: {error.strerror}; what went before is gone"
        raise StudyError(str(error.filename or item.name), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
    return True


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        assert not path.is_symlink(), f"{path} is a link"
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)

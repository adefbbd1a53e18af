"""From what a study names to the entries of its lock: which commit, and which files of it."""

import time
from collections.abc import Collection, Iterator, Sequence

from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.hub.choose import NoFilesError, configs_of, dataset_files, model_files
from tunestudy.data.hub.client import Hub
from tunestudy.records.locked import Item, Lock, Named

CARD = "README.md"
SHOWN = 5


def resolved(named: Sequence[Named], lock: Lock | None, update: Collection[str], hub: Hub) -> list[Item]:
    """An entry for everything that is named: the lock's own where it has it, else of the commit that the hub has now.

    A locked repository of which more is needed than before stays at its commit. `update`: ids that move to what their
    revision means now. Raises StudyError.
    """
    return [_resolved(one, lock, one.id in update, hub) for one in named]


def _resolved(named: Named, lock: Lock | None, update: bool, hub: Hub) -> Item:
    known = lock.find(named) if lock is not None else None
    if known is not None and not update and set(named.parts) <= set(known.parts):
        return known
    commit = hub.commit_of(named) if known is None or update else known.commit
    if known is not None and commit == known.commit and set(named.parts) <= set(known.parts):
        return known
    kept = known.parts if known is not None and not update else ()
    parts = tuple(sorted({*named.parts, *kept}))
    listed = hub.files_at(named, commit)
    try:
        if named.kind == "model":
            chosen = model_files(list(listed), parts)
        else:
            card = hub.text(named, commit, CARD) if CARD in listed else None
            chosen = dataset_files(list(listed), parts, configs_of(card))
    except NoFilesError as error:
        raise StudyError(str(named), str(error), exit_code=Exit.STUDY_WRONG) from None
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files = {name: listed[name] for name in chosen}
    return Item(named.kind, named.id, named.revision, parts, commit, now, files)


def moved(old: Item, new: Item) -> Iterator[str]:
    """What another commit changes of the files that are read."""
    if old.commit == new.commit:
        yield f"{new.id} stays at {new.commit[:12]}: the hub has nothing newer"
        return
    yield f"{new.id} {old.commit[:12]} → {new.commit[:12]}"
    words = {
        "new": [name for name in new.files if name not in old.files],
        "gone": [name for name in old.files if name not in new.files],
        "changed": [name for name, file in new.files.items() if name in old.files and old.files[name] != file],
    }
    for word, names in words.items():
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            yield f"  {word}: {', '.join(names[:SHOWN])}{more}"
    if not any(words.values()):
        yield "  every file that is read is the same"

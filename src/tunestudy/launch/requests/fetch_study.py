"""`tunestudy fetch`: everything that a study names on the hub, then the images that its data sets name by URL.

What came from the hub is locked beside the study file (`records/locked.py`); from then on jobs ask nobody.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.requests.by_worker import by_worker, refuse_without
from tunestudy.launch.requests.fetch_images import fetch_images, with_fetch
from tunestudy.records.atomic import read_object
from tunestudy.records.fetched import FetchDir, fetch_key, files_of
from tunestudy.records.hub_cache import OFFLINE, hub_cache
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import Lock, Named, problems, read_lock, write_lock
from tunestudy.study.load import LoadedStudy, at_locked_commits
from tunestudy.study.locked import Locking, locking_by
from tunestudy.study.nearest import did_you_mean

MODULE = "tunestudy.data.hub.run"
TASKS_MODULE = "tunestudy.bench.lm_eval_data"
NEEDED = {"huggingface_hub": "huggingface_hub", "datasets": "datasets"}
EVERYTHING = "all"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a fetch is asked for."""

    dataset: str = ""
    """Only this data set."""
    limit_shards: int | None = None
    retry_failed: bool = False
    dry_run: bool = False
    verify: bool = False
    """Hash again what is here."""
    update: Sequence[str] = ()
    """Hub ids that move to what their revision means now, or `all`."""
    backoff_s: float = 1.0


def fetch_study(loaded: LoadedStudy, results: Path, wish: Wish) -> Exit:
    """Fetch from the hub and by URL, or say what there is to fetch. Raises StudyError."""
    images = with_fetch(loaded, wish.dataset)
    locking = loaded.locking
    assert locking is not None, "load_study looks for the lock"
    if not wish.dataset:
        locking = _with_tasks(loaded, locking, results)
    named = _chosen(loaded, locking, wish.dataset)
    if not named and not images:
        code = _nothing_to_fetch(loaded, wish)
        _tell_unlocked(locking)
        return code
    if named or wish.update:
        code = _from_hub(loaded, locking, named, results, wish)
        if code != Exit.DONE:
            return code
        loaded = at_locked_commits(loaded)
    _tell_unlocked(locking)
    if not images:
        return Exit.DONE
    return _images(loaded, results, {name: _now(loaded, name) for name in images}, wish)


def _tell_unlocked(locking: Locking) -> None:
    for name, why in locking.unlockable.items():
        print(f"{name}: {why}, so not locked; jobs ask the hub")


def _from_hub(loaded: LoadedStudy, locking: Locking, named: Sequence[Named], results: Path, wish: Wish) -> Exit:
    refuse_without("fetch", NEEDED)
    folder = StudyDir(results / loaded.study.study)
    code = by_worker(
        "fetch",
        MODULE,
        folder.fetch,
        {
            "study": loaded.study.study,
            "lock": str(locking.path.resolve()),
            "named": [vars(one) for one in named],
            "update": _updated(named, wish.update),
            **({} if locking.lock is None else {"tasks": locking.lock.tasks}),
            "prune": not loaded.overrides and not wish.dataset,
            "dry_run": wish.dry_run,
            "verify": wish.verify,
            "again": f"tunestudy fetch {loaded.typed}",
            "backoff_s": wish.backoff_s,
        },
        {**os.environ, **loaded.study.env},
    )
    lock = read_lock(locking.path) if code == Exit.DONE and not wish.dry_run else None
    if lock is not None:
        write_lock(folder.lock, lock)
    return code


def _with_tasks(loaded: LoadedStudy, locking: Locking, results: Path) -> Locking:
    """With the data that tasks of lm-evaluation-harness read, as the harness of this machine says, if it is here."""
    if not locking.tasks or (installed := _harness()) is None:
        return locking
    lock = locking.lock or Lock(loaded.study.study)
    names = dict.fromkeys(name for of in locking.tasks.values() for name in of)
    told = {name: lock.tasks[name] for name in names if name in lock.tasks}
    known = {name: one for name, one in told.items() if one.get("harness") == installed and "metrics" in one}
    left = {key: missing for key, of in locking.tasks.items() if (missing := [one for one in of if one not in known])}
    if left:
        print("looking up what tasks of lm-evaluation-harness read …", file=sys.stderr, flush=True)
        folder = StudyDir(results / loaded.study.study).fetch
        out = folder / f"tasks-{os.getpid()}.json"
        request = {"benchmarks": left, "base": str(loaded.path.parent.resolve()), "out": str(out.resolve())}
        try:
            silent = {**os.environ, **loaded.study.env, **dict.fromkeys(OFFLINE, "1")}  # files of the harness tell all
            code = by_worker("fetch", TASKS_MODULE, folder, request, silent)
            found = read_object(out)
        finally:
            out.unlink(missing_ok=True)
        if "error" in found:
            raise StudyError(loaded.locate(found["key"]), found["error"], exit_code=code)
        if code != Exit.DONE:
            raise StudyError("fetch", "ended before it knew what tasks read; run it again", exit_code=code)
        known |= found
    asked = loaded.asked or loaded.study
    return locking_by(asked, loaded.path.parent, locking.path, replace(lock, tasks=known))


def _harness() -> str | None:
    """The version of lm-evaluation-harness on this machine."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return None


def _images(loaded: LoadedStudy, results: Path, images: Mapping[str, Dataset], wish: Wish) -> Exit:
    """Images of data sets whose records are here; a dry run does not bring records only to count them."""
    chosen = dict(images)
    if wish.dry_run:
        for name in [name for name, one in images.items() if one.hub_id is not None and not _is_here(loaded, one)]:
            del chosen[name]
            print(f"{name}: which images its records name is known once they are here")
    if not chosen:
        return Exit.DONE
    code = fetch_images(
        loaded,
        results,
        chosen,
        limit_shards=wish.limit_shards,
        retry_failed=wish.retry_failed,
        dry_run=wish.dry_run,
    )
    if code == Exit.DONE and not wish.dry_run:
        _keep_images(loaded, results, chosen)
    return code


def _keep_images(loaded: LoadedStudy, results: Path, images: Mapping[str, Dataset]) -> None:
    """Digests of the shards that came into the lock, so that another machine can tell whether it got the same."""
    assert loaded.locking is not None
    study = StudyDir(results / loaded.study.study)
    lock = read_lock(loaded.locking.path) or Lock(loaded.study.study)
    came = {name: images_of(one, loaded.path.parent, study) for name, one in images.items()}
    lock = replace(lock, images={**lock.images, **came})
    try:
        write_lock(loaded.locking.path, lock)
    except OSError as error:
        why = f"cannot be written: {error.strerror}; the images are here, and training finds them"
        raise StudyError(str(loaded.locking.path), why, exit_code=Exit.PREFLIGHT_REFUSED) from error
    write_lock(study.lock, lock)


def images_of(dataset: Dataset, base: Path, study: StudyDir) -> dict[str, Any]:
    """What the lock says of a data set's images: their folder's key, and the digest of each complete shard."""
    key = fetch_key(dataset, files_of(dataset, base))
    folder = FetchDir(study.fetch / key)
    return {"key": key, "shards": folder.images(folder.num_complete()) or []}


def _chosen(loaded: LoadedStudy, locking: Locking, dataset: str) -> list[Named]:
    """What to fetch of the hub: everything, or one data set's repository."""
    if not dataset:
        return list(locking.named)
    one = loaded.study.datasets[dataset]
    return [named for named in locking.named if named.kind == "dataset" and named.id == one.hub_id]


def _updated(named: Sequence[Named], wished: Sequence[str]) -> list[str]:
    ids = [one.id for one in named]
    if EVERYTHING in wished:
        return ids
    for name in wished:
        if name not in ids:
            raise StudyError("--update", f"the study names no `{name}` on the hub; {did_you_mean(name, ids)}")
    return list(wished)


def _now(loaded: LoadedStudy, name: str) -> Dataset:
    """The data set at its locked commit."""
    dataset: Dataset = loaded.study.datasets[name]
    return dataset


def _is_here(loaded: LoadedStudy, dataset: Dataset) -> bool:
    locking = loaded.locking
    if locking is None or not locking.complete or locking.lock is None:
        return False
    mine = [named for named in locking.named if named.kind == "dataset" and named.id == dataset.hub_id]
    return not problems(locking.lock, hub_cache({**os.environ, **loaded.study.env}), mine)


def _nothing_to_fetch(loaded: LoadedStudy, wish: Wish) -> Exit:
    """No mistake of a study's, but one of a command that names what to fetch. Raises StudyError then."""
    if wish.dataset:
        why = f"`{wish.dataset}` is no data set of the hub, and has no `fetch: {{}}`, which allows URLs of images in it"
        raise StudyError("--dataset", why)
    if wish.update:
        raise StudyError("--update", "the study names nothing on the hub")
    print(f"nothing to fetch: {loaded.path.name} names nothing on the hub, and no data set of it has `fetch: {{}}`")
    return Exit.DONE

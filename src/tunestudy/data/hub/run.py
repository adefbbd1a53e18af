"""Locks and fetches what a study names on the hub: `python -m tunestudy.data.hub.run REQUEST`.

REQUEST is a JSON file in the study's `cache/fetch/`:

    {"study": "demo", "lock": "/…/demo.lock", "named": [{"kind": …, "id": …, "revision": null, "parts": […]}],
     "update": [], "tasks": {}, "prune": true, "dry_run": false, "verify": false, "again": "tunestudy fetch study.yaml",
     "backoff_s": 1.0}

The lock is written as soon as the commits are known, so that a fetch which is broken off goes on with the same ones.
"""

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, may_close
from tunestudy.data.hub.bring import bring, left_to_bring, quiet_bars
from tunestudy.data.hub.client import Hub
from tunestudy.data.hub.resolve import moved, resolved
from tunestudy.records.atomic import is_disk_full, read_json
from tunestudy.records.hub_cache import hub_cache
from tunestudy.records.locked import Item, Lock, Named, Problem, item_problems, read_lock, write_lock
from tunestudy.records.space import bytes_text, space
from tunestudy.records.stop import StopRequest

AT_ONCE = 4
POLL_S = 0.2
RESERVE_BYTES = 200 * 2**20
"""Left free on the cache's disk."""


def main(path: str) -> int:
    """Carry a request out; returns an exit code."""
    request = read_json(Path(path))
    stop = StopRequest.on_signals(signal.SIGTERM, signal.SIGINT)
    hub = Hub(request["again"], backoff_s=float(request["backoff_s"]), stopped=lambda: bool(stop))
    if not sys.stderr.isatty():
        quiet_bars()
    try:
        with space("for what the hub sends", hub_cache()):
            return carry_out(request, hub, stop)
    except StudyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        cure = "make room, then " if is_disk_full(error) else ""
        print(f"{error}; all that came is kept: {cure}`{hub.again}` goes on", file=sys.stderr)
        return Exit.PREFLIGHT_REFUSED


def carry_out(request: dict[str, Any], hub: Hub, stop: StopRequest) -> Exit:
    """Resolve, tell, lock, bring, verify."""
    named = [Named(one["kind"], one["id"], one["revision"], tuple(one["parts"])) for one in request["named"]]
    place, cache = Path(request["lock"]), hub_cache()
    lock = read_lock(place)
    items = resolved(named, lock, request["update"], hub)
    if lock is not None and request["update"]:
        before = [(lock.find(item), item) for item in items if item.id in request["update"]]
        print("\n".join(line for old, new in before if old is not None for line in moved(old, new)), flush=True)
    wrong = [problem for item in items for problem in item_problems(item, cache, hashes=request["verify"])]
    print("\n".join(table(items, wrong, cache)), flush=True)
    refuse_a_small_disk(wrong, cache, hub.again, only_tell=request["dry_run"])
    if request["dry_run"]:
        print("a dry run: nothing was fetched, nothing was locked")
        return Exit.DONE
    wrote = keep(place, request, lock, items)
    if not bring_all(wrong, cache, hub, stop):
        print(f"interrupted; all that came is kept: `{hub.again}` goes on", flush=True)
        sys.stderr.flush()
        os._exit(Exit.INTERRUPTED)  # threads that wait for the hub have nothing to save
    how = "SHA-256 and size" if request["verify"] else "size"
    fetched = f"{len(wrong)} fetched and verified" if wrong else f"all here, by {how}"
    print(f"{sum(len(item.files) for item in items)} files, {fetched}; {place.name} {'written' if wrote else 'stays'}")
    return Exit.DONE


def keep(place: Path, request: dict[str, Any], read: Lock | None, items: Sequence[Item]) -> bool:
    """Write the lock, unless it says the same; `read`: as it was at first. `prune`: drop what the study names no more.

    Raises StudyError where it cannot be written, and where another fetch has locked another commit meanwhile.
    """
    now = read_lock(place) or Lock(request["study"])
    for item in items:
        theirs, ours = now.find(item), None if read is None else read.find(item)
        if theirs is not None and theirs.commit not in (item.commit, "" if ours is None else ours.commit):
            told = f"another fetch has locked {theirs.commit[:12]} meanwhile; `{request['again']}` takes that"
            raise StudyError(str(item), told, exit_code=Exit.PREFLIGHT_REFUSED)
    now = replace(now, tasks=request.get("tasks", now.tasks))
    if request["prune"]:
        keys = {item.key for item in items}
        now = replace(now, items=tuple(item for item in now.items if item.key in keys))
    try:
        return write_lock(place, now.with_items(items))
    except OSError as error:
        why = (
            f"cannot be written: {error.strerror}; the lock lies beside the study file, so that all who run it share it"
        )
        raise StudyError(str(place), why, exit_code=Exit.PREFLIGHT_REFUSED) from error


def table(items: Sequence[Item], wrong: Sequence[Problem], cache: Path) -> list[str]:
    """A line per repository and one for all: bytes in all, bytes to come."""
    lines, left_of_all = [], 0
    for item in items:
        mine = [one for one in wrong if one.item is item]
        left = left_to_bring(mine, cache)
        left_of_all += left
        size, here = bytes_text(item.size), f"{bytes_text(left)} to fetch" if mine else "here"
        lines.append(f"{item.kind:8}{item!s:40} {item.commit[:12]}  {len(item.files):4} files {size:>10}  {here}")
    total = sum(item.size for item in items)
    free = shutil.disk_usage(existing(cache)).free
    lines.append(f"in all {bytes_text(total)}, {bytes_text(left_of_all)} to fetch; {bytes_text(free)} free in {cache}")
    return lines


def refuse_a_small_disk(wrong: Sequence[Problem], cache: Path, again: str, *, only_tell: bool) -> None:
    """Before the first byte. Raises StudyError, or only prints it."""
    needed, free = left_to_bring(wrong, cache), shutil.disk_usage(existing(cache)).free
    if needed == 0 or needed + RESERVE_BYTES <= free:
        return
    told = StudyError(
        str(cache),
        f"{bytes_text(needed)} to fetch and {bytes_text(free)} free, of which {bytes_text(RESERVE_BYTES)} stay free; "
        f"make room, or set HF_HOME to a larger disk, then `{again}`",
        exit_code=Exit.PREFLIGHT_REFUSED,
    )
    if not only_tell:
        raise told
    print(told)


def bring_all(wrong: Sequence[Problem], cache: Path, hub: Hub, stop: StopRequest) -> bool:
    """Bring every file, a few at once, the largest first; False when asked to stop. The first failure ends it."""
    waiting = sorted(wrong, key=lambda one: -one.item.files[one.file].size)
    pool = ThreadPoolExecutor(AT_ONCE)
    under_way: dict[Future[None], Problem] = {}
    try:
        while (waiting or under_way) and not stop:
            while waiting and len(under_way) < AT_ONCE:
                problem = waiting.pop(0)
                under_way[pool.submit(bring, problem, cache, hub)] = problem
            done, _ = wait(under_way, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                problem = under_way.pop(future)
                future.result()
                size = bytes_text(problem.item.files[problem.file].size)
                print(f"  {problem.item.id}: {problem.file} ({size})", file=sys.stderr, flush=True)
    finally:
        pool.shutdown(wait=not stop, cancel_futures=True)
    return not stop


def existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    return next(one for one in (folder, *folder.absolute().parents) if one.is_dir())


if __name__ == "__main__":
    may_close()
    go_on_unheard()
    sys.exit(main(sys.argv[1]))

"""The images that data sets name by URL, brought here ahead of training: the second half of `tunestudy fetch`."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import write_json
from tunestudy.records.fetched import FetchDir, fetch_key, what_is_missing
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import OFFLINE
from tunestudy.records.stop import StopRequest
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean

MODULE = "tunestudy.data.fetch.run"
NEEDED = {"aiohttp": "aiohttp", "PIL": "pillow", "tqdm": "tqdm"}
POLL_S = 0.1


def fetch_images(
    loaded: LoadedStudy,
    results: Path,
    chosen: Mapping[str, Dataset],
    *,
    limit_shards: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> Exit:
    """Fetch for these data sets; the worker shows how far it is. Raises StudyError."""
    refuse_without(NEEDED)
    folder = StudyDir(results / loaded.study.study).fetch
    offline = loaded.locking is not None and loaded.locking.complete and not dry_run
    return by_worker(
        MODULE,
        folder,
        {
            "base": os.path.relpath(loaded.path.parent.resolve(), folder.resolve()),
            "datasets": {name: one.model_dump(mode="json") for name, one in chosen.items()},
            "limit_shards": limit_shards,
            "retry_failed": retry_failed,
            "dry_run": dry_run,
            "again": f"tunestudy fetch {loaded.path.name}",
        },
        {**os.environ, **loaded.study.env, **(dict.fromkeys(OFFLINE, "1") if offline else {})},
    )


def fetch_drawn(loaded: LoadedStudy, results: Path) -> Exit:
    """Fetch pools that are drawn here, which need no network, before anything is planned. Raises StudyError."""
    fetched = StudyDir(results / loaded.study.study).fetch
    wanted = {
        name: one
        for name, one in with_fetch(loaded, "").items()
        if getattr(one, "drawn", None) is not None and what_is_missing(one, FetchDir(fetched / fetch_key(one, None)))
    }
    return fetch_images(loaded, results, wanted) if wanted else Exit.DONE


def refuse_without(needed: Mapping[str, str]) -> None:
    """StudyError where a module is not installed; `needed`: its package by the module's name."""
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        told = f"fetching needs {', '.join(missing)}, not installed here; pip install 'tunestudy[train]'"
        raise StudyError("installation", told, exit_code=Exit.PREFLIGHT_REFUSED)


def by_worker(module: str, folder: Path, request: Mapping[str, Any], environment: Mapping[str, str]) -> Exit:
    """Have a module of the worker plane carry a request out. Raises StudyError."""
    file = folder / f"request-{module.rpartition('.')[0].rpartition('.')[2]}-{os.getpid()}.json"
    try:
        write_json(file, request)
        return carried_out(module, file, environment)
    except OSError as error:
        cause = f"cannot be written: {error.strerror}; choose another folder with --results"
        raise StudyError(str(folder), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def with_fetch(loaded: LoadedStudy, name: str) -> dict[str, Dataset]:
    """The data sets to fetch images for: those with `fetch`, or one of them. Raises StudyError for an unknown name."""
    datasets: dict[str, Dataset] = {**loaded.study.datasets}
    able = {key: one for key, one in datasets.items() if getattr(one, "fetch", None) is not None}
    if name and name not in datasets:
        raise StudyError("--dataset", f"there is no data set `{name}`; {did_you_mean(name, datasets)}")
    return {key: one for key, one in able.items() if name in ("", key)}


def carried_out(module: str, request: Path, environment: Mapping[str, str]) -> Exit:
    """Run the worker on this terminal to its end, and pass a wish to stop on to it."""
    stop = StopRequest.on_signals(signal.SIGINT, signal.SIGTERM)
    command = [sys.executable, "-m", module, str(request)]
    worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0, env=dict(environment))
    told = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = worker.wait(POLL_S)
            break
        if stop and not told:
            worker.send_signal(signal.SIGINT)
            told = True
    try:
        return Exit(code)
    except ValueError:
        cause = f"the worker ended with code {code}; what came is kept, run again to continue"
        raise StudyError("fetch", cause, exit_code=Exit.JOBS_FAILED) from None

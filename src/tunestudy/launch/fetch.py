"""`tunestudy fetch`: the images that data sets name by URL, brought here ahead of training."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.stop import StopRequest
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean

MODULE = "tunestudy.data.fetch.run"
NEEDED = {"aiohttp": "aiohttp", "PIL": "pillow", "tqdm": "tqdm"}
POLL_S = 0.1


def fetch_images(
    loaded: LoadedStudy,
    results: Path,
    *,
    dataset: str = "",
    limit_shards: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> Exit:
    """Fetch for one data set, or for all that have `fetch`; the worker shows how far it is. Raises StudyError."""
    chosen = with_fetch(loaded, dataset)
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        told = f"fetching needs {', '.join(missing)}, not installed here; pip install 'tunestudy[train]'"
        raise StudyError("installation", told, exit_code=Exit.PREFLIGHT_REFUSED)
    folder = StudyDir(results / loaded.study.study).fetch
    request = folder / f"request-{os.getpid()}.json"
    try:
        write_json(
            request,
            {
                "base": os.path.relpath(loaded.path.parent.resolve(), folder.resolve()),
                "datasets": {name: one.model_dump(mode="json") for name, one in chosen.items()},
                "limit_shards": limit_shards,
                "retry_failed": retry_failed,
                "dry_run": dry_run,
                "again": f"tunestudy fetch {loaded.path.name}",
            },
        )
        return carried_out(request)
    except OSError as error:
        cause = f"cannot be written: {error.strerror}; choose another folder with --results"
        raise StudyError(str(folder), cause, exit_code=Exit.PREFLIGHT_REFUSED) from error
    finally:
        with contextlib.suppress(OSError):
            request.unlink(missing_ok=True)


def with_fetch(loaded: LoadedStudy, name: str) -> dict[str, Dataset]:
    """The data sets to fetch for. Raises StudyError when there are none."""
    datasets: dict[str, Dataset] = {**loaded.study.datasets}
    able = {key: one for key, one in datasets.items() if getattr(one, "fetch", None) is not None}
    if not able:
        raise StudyError("datasets", "none of them has images to fetch; `fetch: {}` in a data set allows URLs in it")
    if name and name not in able:
        raise StudyError("--dataset", f"there is no data set `{name}` with `fetch`; {did_you_mean(name, able)}")
    return {name: able[name]} if name else able


def carried_out(request: Path) -> Exit:
    """Run the worker on this terminal to its end, and pass a wish to stop on to it."""
    stop = StopRequest.on_signals(signal.SIGINT, signal.SIGTERM)
    worker = subprocess.Popen([sys.executable, "-m", MODULE, str(request)], stdin=subprocess.DEVNULL, process_group=0)
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

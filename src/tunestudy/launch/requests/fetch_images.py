"""The images that data sets name by URL, brought here ahead of training: the second half of `tunestudy fetch`."""

import os
from collections.abc import Mapping
from pathlib import Path

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.requests.by_worker import by_worker, refuse_without
from tunestudy.records.fetched import FetchDir, fetch_key, what_is_missing
from tunestudy.records.hub_cache import OFFLINE
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean

MODULE = "tunestudy.data.fetch.run"
NEEDED = {"aiohttp": "aiohttp", "PIL": "pillow", "tqdm": "tqdm"}


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
    refuse_without("fetch", NEEDED)
    folder = StudyDir(results / loaded.study.study).fetch
    offline = loaded.locking is not None and loaded.locking.complete and not dry_run
    return by_worker(
        "fetch",
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


def with_fetch(loaded: LoadedStudy, name: str) -> dict[str, Dataset]:
    """The data sets to fetch images for: those with `fetch`, or one of them. Raises StudyError for an unknown name."""
    datasets: dict[str, Dataset] = {**loaded.study.datasets}
    able = {key: one for key, one in datasets.items() if getattr(one, "fetch", None) is not None}
    if name and name not in datasets:
        raise StudyError("--dataset", f"there is no data set `{name}`; {did_you_mean(name, datasets)}")
    return {key: one for key, one in able.items() if name in ("", key)}

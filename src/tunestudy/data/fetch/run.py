"""Fetches the images of a study's data sets: `python -m tunestudy.data.fetch.run REQUEST`.

REQUEST is a JSON file in `cache/fetch/`:

    {"base": "../../../..", "datasets": {name: settings}, "limit_shards": null, "retry_failed": false,
     "dry_run": false, "again": "tunestudy fetch study.yaml"}

A Ctrl-C or SIGTERM lets what is under way arrive, keeps all that is settled, and ends with exit code 75.
"""

import asyncio
import errno
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from tunestudy.config.data import AnyDataset, Dataset
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.streams import go_on_unheard, may_close
from tunestudy.data.fetch.addresses import Guard, Lookup, system_lookup
from tunestudy.data.fetch.download import open_downloader
from tunestudy.data.fetch.engine import Engine
from tunestudy.data.fetch.play import played
from tunestudy.data.fetch.progress import Progress, table
from tunestudy.data.fetch.shard import Shard, shards_of
from tunestudy.data.fetch.turns import host_of
from tunestudy.data.fetch.wanted import fetch_dir, fetch_settings, image_columns, wants
from tunestudy.data.sources import Folders, Raw, source_of
from tunestudy.data.store import ImageStore
from tunestudy.records.atomic import read_json, write_json
from tunestudy.records.fetched import FetchDir
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.space import space
from tunestudy.records.stop import StopRequest

CURES = {
    errno.ENOSPC: "make room, then ",
    errno.EDQUOT: "make room, then ",
    errno.EMFILE: "`ulimit -n` allows too few open files for this `concurrency`; then ",
}
OPEN_FILES = 65_536
BUSIEST_HOSTS = 5


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a run is asked for, beside the data set."""

    limit_shards: int | None = None
    """Only the first so many shards of each data set."""
    retry_failed: bool = False
    again: str = "tunestudy fetch STUDY"
    """The command that goes on."""
    guard: Guard | None = None
    lookup: Lookup = system_lookup


def main(path: str) -> int:
    """Carry a request out; returns an exit code."""
    request_file = Path(path)
    request = read_json(request_file)
    study = StudyDir(request_file.parent.parent.parent)
    folders = Folders((request_file.parent / request["base"]).resolve(), study.cache)
    order = Order(limit_shards=request["limit_shards"], retry_failed=request["retry_failed"], again=request["again"])
    allow_open_files()
    stop = StopRequest.on_signals(signal.SIGTERM, signal.SIGINT)
    adapter: TypeAdapter[AnyDataset] = TypeAdapter(AnyDataset)
    try:
        for name, values in request["datasets"].items():
            dataset = adapter.validate_python(values)
            if request["dry_run"]:
                print("\n".join(foreseen(name, dataset, folders)), flush=True)
                continue
            with space(f"for images of {name}", study.images):
                finished = fetch(name, dataset, folders, study, order, stop=lambda: bool(stop))
            if not finished:
                print(f"interrupted; all that came is kept: `{order.again}` goes on", flush=True)
                return Exit.INTERRUPTED
    except StudyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except LeaseHeldError as held:
        print(f"another process fetches this data set: {held}", file=sys.stderr)
        return Exit.PREFLIGHT_REFUSED
    except OSError as error:
        cure = CURES.get(error.errno or 0, "")
        print(f"{error}; all that came is kept: {cure}`{order.again}` goes on", file=sys.stderr)
        return Exit.PREFLIGHT_REFUSED
    return Exit.DONE


def allow_open_files() -> None:
    """As many open files as this process may have: each connection is one, and usual limits are of another time."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fetch(
    name: str, dataset: Dataset, folders: Folders, study: StudyDir, order: Order, *, stop: Callable[[], bool]
) -> bool:
    """Fetch one data set's images and print what came; False when it was stopped before the end.

    Raises StudyError, LeaseHeldError, OSError.
    """
    settings, folder = fetch_settings(dataset), fetch_dir(dataset, folders)
    assert settings is not None, "only a data set with `fetch` is fetched"
    with Lease.acquire(study.leases / f"fetch-{folder.root.name}"):
        begun = begin(dataset, folders, folder)
        size, per_shard = int(begun["shard_size"]), begun["images"][: order.limit_shards]
        complete = {shard for shard in range(len(per_shard)) if is_complete(folder, shard, order)}
        with closing(Progress(name, sum(per_shard))) as progress:
            progress.recalled(sum(per_shard[shard] for shard in complete))
            finished = True
            if len(complete) < len(per_shard):
                store = ImageStore(study.images)
                store.sweep()
                raws = islice(records_of(dataset, folders), size * len(per_shard))
                shards = shards_of(raws, dataset, folder, size, skip=complete.__contains__)
                finished = asyncio.run(_run(shards, dataset, store, progress, order, stop))
        print("\n".join(result(name, folder, len(per_shard), progress)), flush=True)
    return finished


async def _run(
    shards: Iterator[Shard],
    dataset: Dataset,
    store: ImageStore,
    progress: Progress,
    order: Order,
    stop: Callable[[], bool],
) -> bool:
    settings = fetch_settings(dataset)
    assert settings is not None, "only a data set with `fetch` is fetched"
    async with (
        played(dataset) as resolver,
        open_downloader(settings, order.guard, order.lookup, resolver) as downloader,
    ):
        engine = Engine(settings, store, downloader, progress, stop)
        return await engine.run(shards, retry_failed=order.retry_failed)


def begin(dataset: Dataset, folders: Folders, folder: FetchDir) -> dict[str, Any]:
    """fetch.json: how many records and images there are, in shards of which size. Written by the first fetch."""
    begun = read_json(folder.fetch_json)
    if begun is None:
        settings = fetch_settings(dataset)
        assert settings is not None, "only a data set with `fetch` is fetched"
        named = (len(urls) for urls in _named(dataset, folders))
        shards = list(iter(lambda: list(islice(named, settings.shard_size)), []))
        begun = {
            "dataset": dataset.model_dump(mode="json", include={"type", "name", "num_samples"}),
            "deciding": settings.deciding(),
            "shard_size": settings.shard_size,
            "records": sum(map(len, shards)),
            "images": [sum(shard) for shard in shards],
        }
        write_json(folder.fetch_json, begun)
    return cast(dict[str, Any], begun)


def is_complete(folder: FetchDir, shard: int, order: Order) -> bool:
    """Whether there is nothing to do for a shard; with `retry_failed` every image is looked at again."""
    return folder.summary(shard).exists() and not folder.journal(shard).exists() and not order.retry_failed


def foreseen(name: str, dataset: Dataset, folders: Folders) -> Iterator[str]:
    """What a fetch would do."""
    folder = fetch_dir(dataset, folders)
    urls: set[str] = set()
    images: list[int] = []
    for named in _named(dataset, folders):
        images.append(len(named))
        urls.update(named)
    hosts = Counter(host_of(url) for url in urls)
    yield (
        f"{name}: {len(images):,} records name {sum(images):,} images, "
        f"{len(urls):,} different URLs on {len(hosts):,} hosts"
    )
    if hosts:
        yield "  most on " + ", ".join(f"{host} ({count:,})" for host, count in hosts.most_common(BUSIEST_HOSTS))
    total = folder.num_shards()
    if total is None:
        yield "  nothing has been fetched yet"
    else:
        yield f"  {sum(folder.summary(shard).exists() for shard in range(total))} of {total} shards are complete"


def result(name: str, folder: FetchDir, num_shards: int, progress: Progress) -> Iterator[str]:
    """The table of reasons: over all complete shards, or of this run while there is none."""
    summaries = [summary for shard in range(num_shards) if (summary := read_json(folder.summary(shard)))]
    if not summaries:
        yield from table(f"{name}, in this run", progress.ok, progress.num_bytes, progress.failed)
        return
    failed: Counter[str] = Counter()
    for summary in summaries:
        failed.update(summary["failed"])
    yield from table(name, sum(one["ok"] for one in summaries), sum(one["bytes"] for one in summaries), failed)
    if len(summaries) < num_shards:
        yield f"  (of {len(summaries)} complete shards of {num_shards})"


def records_of(dataset: Dataset, folders: Folders) -> Iterator[Raw]:
    """The records with their URLs."""
    source: Any = source_of(dataset)
    return cast(Iterator[Raw], source.records(dataset, folders))


def _named(dataset: Dataset, folders: Folders) -> Iterator[list[str]]:
    """The URLs of each record."""
    names = image_columns(dataset)
    for raw in records_of(dataset, folders):
        yield [] if raw.problem else [want.url for want in wants(raw.columns, names, verify=False)]


if __name__ == "__main__":
    may_close()
    go_on_unheard()
    sys.exit(main(sys.argv[1]))

"""What of a study's results nothing needs any more: orphaned jobs, caches, checkpoints, leftovers.

Finding is careful rather than complete: whatever a process may be using, or a setting names, is not among it.
"""

import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import TEMPORARY, TRASH, pointed_to, read_object, temporary_beside
from tunestudy.records.fetched import fetch_key, files_of
from tunestudy.records.kept import find_checkpoints, to_keep
from tunestudy.records.launchers import jobs_of_launchers
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease
from tunestudy.records.listing import entries, size_of, stats_below
from tunestudy.records.manifest import read_manifest
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan
from tunestudy.study.state import is_running

LITTER_AGE_S = 3600.0
"""By the file server's clock. A temporary file of that age has no writer any more."""
_HASH = re.compile(rb"\b[0-9a-f]{64}\b")
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_JOB_NAME = re.compile(r"[\w.-]+-[0-9a-f]{12}(?![0-9a-f])")
HASH_BYTES = 32
_ALONE = ("show-*", "probe-*", "foresee-*", "tune-*")
"""Folders in which one question was put to a worker; the answer lies beside them."""


@dataclass(frozen=True)
class Item:
    """A file or folder below `results/<study>/`, or many files of one kind."""

    name: str
    paths: tuple[Path, ...]
    size_bytes: int
    lease: Path | None = None
    """Held while it is deleted, so that nobody begins to use it."""
    kept: str = ""
    """Why it is not deleted although nothing of the plan needs it."""


class Unused:
    """Looks through the results of one study."""

    def __init__(
        self,
        loaded: LoadedStudy,
        plan: Plan,
        *,
        written: LoadedStudy,
        written_plan: Plan,
        queued: Mapping[str, str],
    ) -> None:
        """`written`: the study file without the settings that were typed with the command. What it has stays, too.

        queued: id of a job that waits to be started → where, in words.
        """
        self._queued = queued
        self._studies, self._plan, self._study = (loaded, written), plan, plan.folder
        self._root = plan.folder.root.resolve()
        self._written = written_plan.by_id
        self._known = {**self._written, **plan.by_id}

    @cached_property
    def running(self) -> set[str]:
        """Ids of jobs that a process works on, and of all whose results those read."""
        return self._with_needs(folder.root.name for folder in self._folders() if is_running(folder))

    @cached_property
    def wanted(self) -> set[str]:
        """The same with those that a queue holds, or that a living launcher is about to start or wants the results of
        for its report: that of a run with other settings."""
        return self.running | self._with_needs([*jobs_of_launchers(self._study), *self._queued])

    def _with_needs(self, names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                told = read_object(self._study.job(name).job_json)
                waiting += [*told.get("parents", ()), *dict(told.get("inputs") or {}).values()]
        return found

    @cached_property
    def is_busy(self) -> bool:
        """Whether any process does anything with the study, or may begin: then what jobs share is left alone."""
        if self.running or self._queued:
            return True
        found = os.walk(self._study.leases)
        held = (Path(folder) for folder, _, files in found if any(name.endswith(".json") for name in files))
        return any(Lease.holder(path) is not None for path in held)

    def orphans(self) -> Iterator[Item]:
        """Jobs that the study no longer has."""
        for orphan in self._plan.orphans:
            folder = self._study.job(orphan.id)
            why = "still running, kept" if orphan.id in self.running else self._spared(folder.root)
            if orphan.id in self._queued:
                why = why or f"{self._queued[orphan.id]}, kept"
            why = why or ("of a run that goes on, kept" if orphan.id in self.wanted else "")
            if orphan.id in self._written:
                why = why or "in the study file, which has other settings than were typed, kept"
            yield Item(orphan.id, (folder.root,), orphan.size_bytes, folder.claim, why)

    def caches(self) -> Iterator[Item]:
        """Tokenised data, columns and scores, fetched shards and images that no job of the study reads."""
        if self.is_busy:
            return
        data = self._data_in_use()
        for folder in _folders_in(self._study.data_cache):
            if data is not None and folder.name not in data:
                yield self._cache(folder, self._study.leases / f"data-{folder.name}")
        for folder in (*_folders_in(self._study.column_cache), *_folders_in(self._study.score_cache)):
            if data is not None and not any(name[:16] in folder.name for name in data):
                yield self._cache(folder)
        keys = self._fetches_in_use()
        for folder in _folders_in(self._study.fetch):
            if folder.name not in keys:
                yield self._cache(folder, self._study.leases / f"fetch-{folder.name}")
        loose = [path for path in self._images() if not self._is_young(path)]
        if loose:
            size = sum(map(size_of, loose))
            yield Item(f"cache/images: {len(loose):,} that no data set has", tuple(loose), size)

    def checkpoints(self) -> Iterator[Item]:
        """Of finished jobs: what `save_total_limit` and `drop_intermediate`, as they are now, do not keep."""
        for planned in self._plan.jobs:
            job, folder = planned.job, self._study.job(planned.job.id)
            if planned.status != "done" or job.training is None or job.id in self.running:
                continue
            found = find_checkpoints(folder.root)
            written = read_object(folder.job_json).get("keep_checkpoints") or ()
            pinned = {*job.keep_checkpoints, *written, *self._pointed_to(folder)}
            keep = to_keep(found, job.training, pinned, finished=True)
            for checkpoint in found:
                path = folder.root / checkpoint.name
                if checkpoint.name not in keep and not self._spared(path):
                    yield Item(f"{job.id}/{checkpoint.name}", (path,), size_of(path), folder.claim)

    def leftovers(self) -> Iterator[Item]:
        """What killed writers left: temporary files, checkpoints without a manifest, folders of ended helpers."""
        for path in self._litter():
            owner = self._owner(path)
            if self._spared(path) or self._is_young(path) or (owner or "") in self.running:
                continue
            if owner is None and self.is_busy:
                continue
            lease = self._study.job(owner).claim if owner else None
            yield Item(path.relative_to(self._study.root).as_posix(), (path,), size_of(path), lease)

    def _litter(self) -> Iterator[Path]:
        for folder, folders, files in os.walk(self._study.root):
            litter = [name for name in (*folders, *files) if name.startswith((TEMPORARY, TRASH))]
            folders[:] = [name for name in folders if name not in litter]
            yield from (Path(folder) / name for name in litter)
        for job in self._folders():
            for path in entries(job.root):
                if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and read_manifest(path) is None:
                    yield path
        yield from (path for name in _ALONE for path in self._study.cache.glob(name) if path.is_dir())
        yield from self._study.fetch.glob("request-*.json")
        yield from self._submissions()

    def _submissions(self) -> Iterator[Path]:
        """Batch files and their output, of jobs that the study no longer has and whose folder is gone as well."""
        there = {*self._known, *(folder.root.name for folder in self._folders())}
        for path in self._study.slurm.root.glob("*"):
            named = _JOB_NAME.match(path.name)
            if path.is_file() and named and there.isdisjoint(self._submitted_as(named[0])):
                yield path

    def _submitted_as(self, key: str) -> list[str]:
        """Ids of the jobs of a submission: its key, and what its list names, as an array's key is no job's id."""
        listed = self._study.slurm.jobs(key)
        return [key, *(listed.read_text(encoding="utf-8").split() if listed.is_file() else ())]

    def _cache(self, folder: Path, lease: Path | None = None) -> Item:
        return Item(
            folder.relative_to(self._study.root).as_posix(), (folder,), size_of(folder), lease, self._spared(folder)
        )

    def _data_in_use(self) -> set[str] | None:
        """Names of tokenised data that jobs have told of; None while a job has not begun, which may use any."""
        found = set()
        for job in self._known.values():
            if job.training is None or job.training.trains_nothing:
                continue
            told = read_object(self._study.job(job.id).data_report).get("cache")
            if not isinstance(told, str):
                return None
            found.add(told)
        return found

    def _fetches_in_use(self) -> set[str]:
        base = self._studies[0].path.parent
        return {
            fetch_key(dataset, files_of(dataset, base))
            for loaded in self._studies
            for dataset in loaded.study.datasets.values()
            if getattr(dataset, "fetch", None) is not None
        }

    def _images(self) -> Iterator[Path]:
        """Stored images that neither tokenised data nor what was fetched speaks of."""
        used: set[str] = set()
        for file in self._study.data_cache.glob("*/*/image_hashes.bin"):
            block = file.read_bytes()
            used.update(block[i : i + HASH_BYTES].hex() for i in range(0, len(block), HASH_BYTES))
        for file in self._study.fetch.glob("*/shard-*.jsonl"):
            used.update(match.decode() for match in _HASH.findall(file.read_bytes()))
        for path in self._study.images.glob("[0-9a-f][0-9a-f]/*"):
            if len(path.name) == 2 * HASH_BYTES and path.name not in used and not self._spared(path):
                yield path

    def _folders(self) -> list[JobDir]:
        return [JobDir(path) for path in entries(self._study.jobs) if path.is_dir() and not path.name.startswith(".")]

    def _owner(self, path: Path) -> str | None:
        """The job below whose folder something lies."""
        parts = path.relative_to(self._study.root).parts
        return parts[1] if len(parts) > 2 and parts[0] == self._study.jobs.name else None

    def _pointed_to(self, folder: JobDir) -> set[str]:
        named = [pointed_to(link) for link in (folder.last, folder.best)]
        return {path.name for path in named if path is not None}

    def _spared(self, path: Path) -> str:
        """Why something is never deleted, whoever asks: it lies elsewhere, or a setting of the study names it."""
        if path.is_symlink() or not path.parent.resolve().is_relative_to(self._root):
            return "a link, kept"
        whole = path.resolve()
        if any(named.is_relative_to(whole) or whole.is_relative_to(named) for named in self._named):
            return "named by the study, kept"
        return ""

    @cached_property
    def _named(self) -> list[Path]:
        """Paths inside these results that the study's settings name: a model to start from, an input of a merge."""
        base = self._studies[0].path.parent
        texts = (text for loaded in self._studies for text in _texts(loaded.study.model_dump(mode="json")))
        found = {(base / text).resolve() for text in texts if "/" in text}
        return [path for path in found if path.is_relative_to(self._root) and path != self._root]

    def _is_young(self, path: Path) -> bool:
        """What is gone by now had a writer, too."""
        newest = max((one.st_mtime for one in stats_below(path)), default=math.inf)
        return newest > self._now - LITTER_AGE_S

    @cached_property
    def _now(self) -> float:
        """The time of the file server, which dates the files."""
        probe = temporary_beside(self._study.root / "clock")
        try:
            probe.write_bytes(b"?")
            return probe.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)


def _folders_in(folder: Path) -> list[Path]:
    return [path for path in entries(folder) if path.is_dir() and not path.name.startswith(".")]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < 4096 and "\n" not in value:
            yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)

"""Which rows of a benchmark the job's training data hold as well: `eval/<benchmark>.overlap.json`.

Compared are all data sets of the job's own stage and of the stages that it starts from. A set that cannot be compared
is written down with the reason: it never counts as free of overlap. See docs/evaluation-contamination.md.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tunestudy.bench.asked import IMAGE, KINDS, TEXT_AND_IMAGE, Asked, asked_by, digest_of, overlap_with
from tunestudy.bench.tasks import Row
from tunestudy.config.data import AnyDataset
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.data.corpus import open_corpus
from tunestudy.data.images import MAX_PIXELS, ImagePlaces
from tunestudy.data.overlap import Trained, trained_on
from tunestudy.data.select import split_name
from tunestudy.data.sources import Folders
from tunestudy.data.store import ImageStore
from tunestudy.records.atomic import DamagedFileError, read_json, read_object, replace_bytes, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.manifest import problems

if TYPE_CHECKING:
    from tunestudy.train.world import World

EXAMPLES = 5
VERSION = 1


@dataclass(frozen=True)
class Source:
    """A part of a data set (`name` or `name@held_out`) that stages of one lineage trained on."""

    name: str
    dataset: AnyDataset
    stages: tuple[str, ...]
    corpora: tuple[NDArray[np.uint64], ...]
    """Content hashes of the samples that each of them had; empty where its tokenised data are gone."""


def check_overlap(name: str, job: Job, folder: JobDir, rows: Sequence[Row], world: "World") -> None:
    """Compare a benchmark's rows with all that the job was trained on; every rank calls, rank 0 works.

    The others wait by the store, not in a collective: a large data set may take longer than those wait.
    """
    if world.rank == 0:
        write_overlap(name, job, folder, rows)
    world.after_rank_0()


def write_overlap(name: str, job: Job, folder: JobDir, rows: Sequence[Row]) -> None:
    """Write eval/<name>.overlap.json. Data that cannot be read are told there; nothing is raised for them."""
    started = time.time()
    wanted = job.evaluations[name]
    told = {"benchmark": name, "version": VERSION, "fingerprint": wanted.fingerprint, "rows": len(rows)}
    if not wanted.benchmark.overlap:
        write_json(folder.overlap(name), {**told, "not_checked": "`overlap: false` in the benchmark", "sets": []})
        return
    folders = Folders.of(job, folder)
    limit = max((dataset.max_image_pixels for dataset in job.datasets.values()), default=MAX_PIXELS)
    sources, gaps = sources_of(job, folder)
    compared = _compared(rows, ImagePlaces(folders.base, ImageStore(folders.store), limit), sources, folders, folder)
    seconds = round(time.time() - started, 3)
    write_json(folder.overlap(name), {**told, **compared, "gaps": gaps, "duration_s": seconds})


def sources_of(job: Job, folder: JobDir) -> tuple[list[Source], list[str]]:
    """What the job and those it starts from were trained on, each part once; and stages of which that is not known."""
    found: dict[tuple[str, str], Source] = {}
    gaps: list[str] = []
    for trained, place in lineage(job, folder, gaps):
        assert trained.training is not None
        for part in trained.training.data:
            dataset = trained.datasets[split_name(part.dataset)[0]]
            corpus = _contents(place, part.dataset)
            key = (part.dataset, dataset.model_dump_json())
            before = found.get(key, Source(part.dataset, dataset, (), ()))
            known = (*before.corpora, corpus)
            found[key] = Source(part.dataset, dataset, (*before.stages, trained.stage), known)
    return list(found.values()), gaps


def lineage(job: Job, folder: JobDir, gaps: list[str]) -> Iterator[tuple[Job, JobDir]]:
    """Every job whose training is in this one's weights, itself last; `gaps` gets those that cannot be read."""
    seen: set[str] = set()

    def walk(one: Job, place: JobDir) -> Iterator[tuple[Job, JobDir]]:
        for parent in one.needs:
            if parent in seen:
                continue
            seen.add(parent)
            there = place.study.job(parent)
            written = _job_of(there)
            if written is None:
                wrong = "is gone, damaged or of another version"
                gaps.append(f"jobs/{parent}/job.json {wrong}: what that stage was trained on is not known")
                continue
            yield from walk(written, there)
        if one.training is not None:
            yield one, place

    return walk(job, folder)


def _job_of(folder: JobDir) -> Job | None:
    """None where its file is gone, damaged, or of a version with other settings."""
    try:
        return Job.model_validate(_read(folder.job_json))
    except ValidationError:
        return None


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it is gone or damaged."""
    try:
        return read_json(path) or {}
    except DamagedFileError:
        return {}


def _contents(folder: JobDir, source: str) -> NDArray[np.uint64]:
    """Content hashes of what a stage had of a source, from its tokenised data; empty when these are gone."""
    report = _read(folder.data_report)
    cache = folder.study.data_cache / str(report.get("cache"))
    if not report.get("cache") or problems(cache, hashes=False):
        return np.empty(0, np.uint64)
    corpus = open_corpus(cache / "train")
    chosen = corpus.of_source(corpus.sources.index(source)) if source in corpus.sources else np.empty(0, np.int64)
    return np.asarray(corpus.content[chosen])


def _compared(
    rows: Sequence[Row], places: ImagePlaces, sources: Sequence[Source], folders: Folders, folder: JobDir
) -> dict[str, Any]:
    """`undecodable`, `sets` and `row_ids` of overlap.json."""
    sets: list[dict[str, Any]] = []
    asked = _Lazy(rows, places)
    ids: dict[str, set[str]] = {kind: set() for kind in KINDS}
    undecodable = 0
    for source in sources:
        told = {"dataset": source.name, "stages": list(dict.fromkeys(source.stages))}
        try:
            trained = trained_on(split_name(source.name)[0], source.dataset, folders, folder.study)
            used, note = used_records(source, trained)
            found = _found(asked, trained, used, folder)
        except (StudyError, OSError) as problem:
            sets.append({**told, "not_checked": problem.message if isinstance(problem, StudyError) else str(problem)})
            continue
        undecodable = found["undecodable"]
        for kind, pairs in found["pairs"].items():
            ids[kind].update(row for row, _ in pairs)
        counts = {k: {"rows": len(pairs), "examples": pairs[:EXAMPLES]} for k, pairs in found["pairs"].items() if pairs}
        facts = {"records": int(used.sum()), "undecodable": trained.undecodable, "note": note, "found": counts}
        sets.append({**told, **facts})
    ids[IMAGE] -= ids[TEXT_AND_IMAGE]
    row_ids = {kind: sorted(found) for kind, found in ids.items() if found}
    return {"undecodable": undecodable, "sets": sets, "row_ids": row_ids}


@dataclass
class _Lazy:
    """A benchmark's rows, whose images are decoded only where a comparison is not in the cache."""

    rows: Sequence[Row]
    places: ImagePlaces

    @cached_property
    def digest(self) -> str:
        return digest_of(self.rows)

    @cached_property
    def asked(self) -> Asked:
        return asked_by(self.rows, self.places)


def _found(asked: _Lazy, trained: Trained, used: NDArray[np.bool_], folder: JobDir) -> dict[str, Any]:
    """`pairs` by kind, and `undecodable` rows; from the cache where another variant or seed had the same data."""
    parts = (VERSION, asked.digest, trained.identity, hashlib.sha256(used.tobytes()).hexdigest())
    cache = folder.study.cache / "overlap" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"
    known = read_object(cache)
    if not known:
        pairs = overlap_with(asked.asked, trained, used)
        known = {"pairs": pairs, "undecodable": asked.asked.undecodable}
        replace_bytes(cache, json.dumps(known).encode())
    return dict(known)


def used_records(source: Source, trained: Trained) -> tuple[NDArray[np.bool_], str]:
    """(N,) which records of a data set the stages trained on, and what a reader should know of that.

    StudyError where the data set no longer holds what was trained on.
    """
    sampled = len(trained.ids) < trained.records
    share = f"a sample: {len(trained.ids):,} of {trained.records:,} records" if sampled else ""
    side = trained.held_out if split_name(source.name)[1] else ~trained.held_out
    if not all(map(len, source.corpora)):
        as_is = "compared with the data set as it is now: the tokenised data of the training are gone"
        return side, "; ".join(filter(None, [share, as_is]))
    contents = np.unique(np.concatenate(source.corpora))
    gone = int(np.count_nonzero(~np.isin(contents, trained.content[side])))
    if gone and not sampled:
        message = f"{gone:,} of the {len(contents):,} records trained on are not in the data set any more"
        raise StudyError(at(f"datasets.{split_name(source.name)[0]}"), message)
    return side & np.isin(trained.content, contents), share

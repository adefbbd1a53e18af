"""The second pass over a stage's data sets: tokenise what was chosen and write the training and evaluation corpora."""

import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tunestudy.config.data import AnyDataset, Dataset, DataSettings
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.data.corpus import CorpusWriter
from tunestudy.data.example import Example
from tunestudy.data.images import MAX_PIXELS, ImagePlaces
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import HELD_OUT, is_held_out
from tunestudy.data.sources import Folders
from tunestudy.data.store import ImageStore
from tunestudy.data.survey import Record, Survey, Tally, survey
from tunestudy.data.tokenize import TOO_LONG, Sample, Tokenize
from tunestudy.data.vision import Eyes, Vision
from tunestudy.records.layout import JobDir

CHUNK = 256
"""Records tokenised in one go."""


@dataclass(frozen=True)
class Wanted:
    """The data sets of a stage by name, and the sources (`name` or `name@held_out`) of its two corpora."""

    datasets: Mapping[str, AnyDataset]
    train: tuple[str, ...]
    evaluation: tuple[str, ...]
    folders: Folders


def build(
    wanted: Wanted, tokenizer: Any, settings: DataSettings, folder: Path, vision: Vision | None = None
) -> dict[str, Any]:
    """Write `train/`, `eval/` (if there is any) and rejected.jsonl into `folder`.

    Returns per data set {"read", "rejected": {reason: n}, "lost": {reason: n}, "too_long"}. Raises StudyError for
    a source without samples or with too many bad records.
    """
    surveys = [survey(name, dataset, wanted.folders) for name, dataset in wanted.datasets.items()]
    with ExitStack() as open_files:
        train = open_files.enter_context(CorpusWriter(folder / "train", wanted.train))
        corpora = [(train, wanted.train)]
        if wanted.evaluation:
            evaluation = open_files.enter_context(CorpusWriter(folder / "eval", wanted.evaluation))
            corpora.append((evaluation, wanted.evaluation))
        routes = {
            source: [(writer, sources.index(source)) for writer, sources in corpora if source in sources]
            for source in {*wanted.train, *wanted.evaluation}
        }
        rejected = open_files.enter_context(open(folder / "rejected.jsonl", "w", encoding="utf-8"))
        report = {}
        for found in surveys:
            eyes = None if vision is None else eyes_for(vision, wanted.folders, found.dataset)
            tokenize = Tokenize(tokenizer, settings, eyes)
            with TokenizeInOrder(tokenize, settings.preprocessing_num_workers) as tokenised:
                report[found.name] = _write_dataset(found, routes, tokenised, rejected)
        return report


Routes = Mapping[str, Sequence[tuple[CorpusWriter, int]]]


def _write_dataset(found: Survey, routes: Routes, tokenised: "TokenizeInOrder", rejected: TextIO) -> dict[str, Any]:
    """Send every chosen record of a data set to the corpora that want it; a record nobody wants is not tokenised."""
    rejected.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found.bad)
    tally, taken, written = found.tally, Tally(), dict.fromkeys(_sources_of(found, routes), 0)
    wanted = ((record, source) for record in found.records() if (source := _source(found, record)) in routes)
    for (record, source), outcome in tokenised(wanted):
        taken.read += 1
        if isinstance(outcome, Rejected):
            tally.reject(record.place, outcome)
            taken.reject(record.place, outcome)
            row = {"id": record.id, "source": found.name, "line": record.place, "reason": str(outcome)}
            rejected.write(json.dumps(row, ensure_ascii=False) + "\n")
            continue
        written[source] += 1
        for writer, index in routes[source]:
            writer.add(
                outcome.ids,
                outcome.is_target,
                outcome.images,
                source=index,
                sample_id=record.id,
                content=record.content,
            )
    tally.check(found.name, found.dataset)
    if taken.read:  # those that `limit` and the split leave may be few beside those that were read
        taken.check(found.name, found.dataset, where=" that the stage takes")
    for source, count in written.items():
        if count == 0:
            raise StudyError(
                at(f"datasets.{found.name}"),
                f"{source} has no rows: held_out is {found.dataset.held_out:g} of {found.num_chosen} records",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )
    return {
        "read": tally.read,
        "rejected": dict(tally.rejected),
        "lost": dict(tally.lost),
        "too_long": tally.rejected[TOO_LONG],
    }


def _source(found: Survey, record: Record) -> str:
    """The source a record belongs to: its data set, or the held-out part of it."""
    return f"{found.name}{HELD_OUT}" if is_held_out(record.split_id, found.dataset.held_out) else found.name


def _sources_of(found: Survey, routes: Routes) -> list[str]:
    return [source for source in (found.name, f"{found.name}{HELD_OUT}") if source in routes]


def eyes_of(vision: Vision | None, job: Job, folder: JobDir) -> Eyes | None:
    """A model's vision over the images of all the job's data sets, whose sizes were settled when they were read."""
    if vision is None:
        return None
    folders = Folders.of(job, folder)
    limit = max((dataset.max_image_pixels for dataset in job.datasets.values()), default=MAX_PIXELS)
    return Eyes(vision, ImagePlaces(folders.base, ImageStore(folders.store), limit))


def eyes_for(vision: Vision, folders: Folders, dataset: Dataset) -> Eyes:
    """A model's vision over the images of one data set."""
    return Eyes(vision, ImagePlaces(folders.base, ImageStore(folders.store), dataset.max_image_pixels))


Item = tuple[Record, str]


class TokenizeInOrder:
    """Tokenises records in chunks, in this process or in several, and gives them back in their order."""

    def __init__(self, tokenize: Tokenize, workers: int) -> None:
        self._tokenize, self._workers = tokenize, workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "TokenizeInOrder":
        if self._workers > 1:
            # spawn: a fork would copy the process group's threads and locks
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, _keep, (self._tokenize,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, items: Iterable[Item]) -> Iterator[tuple[Item, Sample | Rejected]]:
        stream = iter(items)
        chunks = iter(lambda: list(islice(stream, CHUNK)), [])
        if self._pool is None:
            for chunk in chunks:
                yield from zip(chunk, self._tokenize([record.example for record, _ in chunk]), strict=True)
            return
        waiting: list[tuple[list[Item], Future[list[Sample | Rejected]]]] = []
        for chunk in chunks:
            waiting.append((chunk, self._pool.submit(_tokenize_there, [record.example for record, _ in chunk])))
            if len(waiting) > 2 * self._workers:
                done, future = waiting.pop(0)
                yield from zip(done, future.result(), strict=True)
        for chunk, future in waiting:
            yield from zip(chunk, future.result(), strict=True)


_there: list[Tokenize] = []
"""In a worker process: the tokenizer it was started with."""


def _keep(tokenize: Tokenize) -> None:
    _there.append(tokenize)


def _tokenize_there(examples: list[Example]) -> list[Sample | Rejected]:
    return _there[0](examples)

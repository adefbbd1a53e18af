"""A benchmark's questions: the prompt that a model is given and the answer it should come to."""

from collections.abc import Iterator
from typing import Any

from tunestudy.bench.public import LIMIT_SALT
from tunestudy.bench.tasks import Row, task
from tunestudy.config.benchmark import Benchmark
from tunestudy.config.data import DataSettings
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import is_held_out, smallest, split_name
from tunestudy.data.sources import Folders
from tunestudy.data.survey import Record, survey
from tunestudy.data.tokenize import Tokenize
from tunestudy.data.vision import Eyes
from tunestudy.data.wording import question_of
from tunestudy.records.layout import JobDir


def read_rows(
    name: str, benchmark: Benchmark, job: Job, folder: JobDir, tokenizer: Any, eyes: Eyes | None = None
) -> list[Row]:
    """Every row that `benchmark` asks, sorted by id: the same for every variant, seed and number of ranks."""
    if (reader := getattr(task(benchmark.task), "read_rows", None)) is not None:
        own: list[Row] = reader(name, benchmark, job, folder, tokenizer, eyes)
        return own
    tokenize = Tokenize(tokenizer, DataSettings(), eyes)
    records = records_of(name, benchmark, job, folder)
    rows = [_row(name, benchmark, record, tokenize, sees=eyes is not None) for record in records]
    return sorted(rows, key=lambda row: row.id)


def unusable(name: str, record: Record, problem: Rejected) -> StudyError:
    """The error for a record that cannot be asked: leaving rows out would make another benchmark."""
    where = at(f"benchmarks.{name}.dataset")
    return StudyError(where, f"{record.place}: {problem}", exit_code=Exit.PREFLIGHT_REFUSED)


def _row(name: str, benchmark: Benchmark, record: Record, tokenize: Tokenize, *, sees: bool) -> Row:
    """A row whose image cannot be used counts as wrong. StudyError for running text, and for a model without eyes."""
    if record.example.text is not None:
        message = f"{benchmark.dataset} holds running text; a benchmark needs rows with a question and an answer"
        raise StudyError(at(f"benchmarks.{name}.dataset"), message, exit_code=Exit.PREFLIGHT_REFUSED)
    asked, reference, choices = question_of(record.example), record.example.reference, record.example.choices
    try:
        ids, images = tokenize.prompt(record.example)
    except Rejected as problem:
        if sees and record.example.images:
            return Row(record.id, (), reference, choices, asked=asked, problem=str(problem))
        raise unusable(name, record, problem) from problem
    return Row(record.id, tuple(ids), reference, choices, images, asked=asked)


def records_of(name: str, benchmark: Benchmark, job: Job, folder: JobDir) -> Iterator[Record]:
    """The benchmark's part of its data set, cut to `limit` by hash of id; one at a time, as they may hold images."""
    dataset_name, only_held_out = split_name(benchmark.dataset)
    dataset = job.datasets[dataset_name]
    found = survey(dataset_name, dataset, Folders.of(job, folder))
    where = at(f"benchmarks.{name}.dataset")

    def part() -> Iterator[Record]:
        records = found.records()
        return (r for r in records if not only_held_out or is_held_out(r.split_id, dataset.held_out))

    ids = [record.id for record in part()]
    if not ids:
        raise StudyError(where, f"{benchmark.dataset} has no rows", exit_code=Exit.PREFLIGHT_REFUSED)
    chosen = set(range(len(ids)) if benchmark.limit is None else smallest(ids, benchmark.limit, LIMIT_SALT).tolist())
    for number, record in enumerate(part()):
        if number in chosen:
            yield record

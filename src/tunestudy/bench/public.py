"""The questions of a public benchmark, from records in its own columns.

The data are read twice: once for ids, columns and what cannot be used, and once more to ask what was chosen, so that
only one record's images are in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Protocol, cast

from tunestudy.bench.fields import Fields, Options, Record, in_words, value_at
from tunestudy.bench.metrics import Target, metric
from tunestudy.bench.pictures import OncePlaces, cells, image_of, referred
from tunestudy.bench.tasks import Row
from tunestudy.config.benchmark import PublicBenchmark
from tunestudy.config.data import AnyDataset, DataSettings
from tunestudy.config.errors import StudyError, at
from tunestudy.config.job import Job
from tunestudy.data.example import Example
from tunestudy.data.images import IMAGE_MARK, ImageBytes
from tunestudy.data.pictured import MARKER
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import LIMIT_SEED, smallest, split_name
from tunestudy.data.sources import Folders, Raw, source_of
from tunestudy.data.survey import image_base
from tunestudy.data.tokenize import Tokenize
from tunestudy.data.vision import Eyes
from tunestudy.records.layout import JobDir

LIMIT_SALT = "benchmark"
ROTATIONS_FROM = 1_000_000
"""MMBench's data hold rotation k of question i at index i + k · 1,000,000.

Source: Liu et al. 2023, arXiv:2307.06281, and its tables.
"""


class RecordReader(Protocol):
    """What a module of `bench/readers/` offers."""

    COLUMNS: tuple[str, ...]

    def questions(self, record: Record) -> Iterator[tuple[str, Record]]:
        """(what follows the record's id, columns that take their place beside the record's) of each question.

        Raises ValueError.
        """
        ...


@dataclass(frozen=True)
class _Question:
    """One question of a record, before it is asked with any rotation."""

    id: str
    group: str
    """The id that its rotations share; its own if it has none."""
    place: str
    record: Record
    problem: str = ""
    """Why its image could not be fetched."""


@dataclass
class _Found:
    """What the first pass has found."""

    place_of: dict[str, str] = field(default_factory=dict)
    groups: dict[str, None] = field(default_factory=dict)
    """In the order of their first question."""
    references: set[str] = field(default_factory=set)
    rotated: bool = False
    """The data hold the rotations themselves."""


def read_public(
    name: str, benchmark: PublicBenchmark, job: Job, folder: JobDir, tokenizer: Any, eyes: Eyes | None = None
) -> list[Row]:
    """Every row that `benchmark` asks, sorted by id. Raises StudyError for data or settings that do not fit it.

    A record whose image is missing or broken is a row with a `problem`: it counts as wrong, it is never left out.
    """
    _check_settings(name, benchmark)
    reading = _Reading(name, benchmark, job, Folders.of(job, folder), eyes)
    found = reading.survey()
    chosen = _chosen(list(found.groups), reading.dataset.limit, benchmark.limit)
    asking = _Asking(reading, tokenizer, eyes, found)
    rows = [row for question in reading.questions() if question.group in chosen for row in asking.rows(question)]
    return sorted(rows, key=lambda row: row.id)


def by_letter(benchmark: PublicBenchmark) -> bool:
    """Whether the most probable letter is the answer, so that nothing is generated."""
    wanted = benchmark.answer_by or ("letter" if benchmark.definition.asks_for == "letter" else "generation")
    return wanted == "letter"


def is_circular(benchmark: PublicBenchmark) -> bool:
    """Whether every rotation of the options is asked."""
    return benchmark.definition.circular if benchmark.circular is None else benchmark.circular


def _check_settings(name: str, benchmark: PublicBenchmark) -> None:
    ways = metric(benchmark.definition.metric).WAYS
    if benchmark.compat not in ways:
        told = f"{benchmark.definition.metric} is computed in these ways: {', '.join(ways)}; not `{benchmark.compat}`"
        raise StudyError(at(f"benchmarks.{name}.compat"), told)
    if split_name(benchmark.dataset)[1]:
        told = "a public benchmark is scored whole, or by `limit`; `@held_out` is for data that are also trained on"
        raise StudyError(at(f"benchmarks.{name}.dataset"), told)


def _chosen(groups: list[str], *limits: int | None) -> set[str]:
    """What both limits leave, each chosen by hash of id."""
    salts: tuple[int | str, ...] = (LIMIT_SEED, LIMIT_SALT)
    for limit, salt in zip(limits, salts, strict=True):
        if limit is not None:
            groups = [groups[i] for i in smallest(groups, limit, salt)]
    return set(groups)


class _Reading:
    """The records of one benchmark, as often as they are asked for."""

    def __init__(self, name: str, benchmark: PublicBenchmark, job: Job, folders: Folders, eyes: Eyes | None) -> None:
        self.name, self.benchmark, self.definition = name, benchmark, benchmark.definition
        self.dataset_name = benchmark.dataset
        self.dataset: AnyDataset = job.datasets[benchmark.dataset]
        self.folders = replace(folders, image_base=image_base(self.dataset, folders))
        self.fields = Fields(name, self.definition, benchmark.dataset, self.dataset.columns)
        reader = self.definition.reader
        module = import_module(f"tunestudy.bench.readers.{reader}") if reader else None
        self._reader = cast(RecordReader | None, module)
        self.shows_images = eyes is not None or not self.definition.instead_of_images
        self._can_see = eyes is not None

    def survey(self) -> _Found:
        """Check every record. Raises StudyError."""
        found = _Found()
        for question in self.questions():
            if question.id in found.place_of:
                column = f" in `{self.definition.id}`" if self.definition.id else ""
                told = f"the id {question.id!r}{column} stands in {found.place_of[question.id]} and {question.place}"
                self.fields.refuse(f"{told}; ids must be unique, or two scores could not be told to be of one question")
            found.place_of[question.id] = question.place
            found.rotated = found.rotated or question.group != question.id
            found.groups[question.group] = None
            self._check(question)
            found.references.update(
                reference for cell in self.image_cells(question.record) if (reference := referred(cell))
            )
        if not found.groups:
            self.fields.refuse(f"{self.dataset_name} has no rows")
        found.references &= set(found.place_of)
        return found

    def _check(self, question: _Question) -> None:
        """What the record's text must hold; images are looked at when they are asked about."""
        options = self.fields.options(question.record, question.place)
        self.fields.answers(question.record, question.place)
        letters = by_letter(self.benchmark) or is_circular(self.benchmark)
        if letters and len(options.texts) < 2:
            columns = ", ".join(f"`{column}`" for column in self.definition.choices)
            self.fields.refuse(f"{question.place}: fewer than two options in {columns}")
        if not self._can_see and self.image_cells(question.record):
            told = f"{self.definition.title} asks about images, and the model has no role `vision_tower` to see them"
            self.fields.refuse(told, at(f"benchmarks.{self.name}.type"))

    def questions(self) -> Iterator[_Question]:
        """Every question in the data's order."""
        more = self._reader.COLUMNS if self._reader else ()
        for number, raw in enumerate(self._raws()):
            if raw.problem and not raw.lost:
                self.fields.refuse(f"{raw.place}: {raw.problem}; the file is damaged or of another kind")
            record = self.fields.named(raw, more)
            record_id = f"{number:06d}" if self.definition.id is None else self._id(record, raw.place)
            for suffix, added in self._read(record, raw.place):
                question = _Question(
                    record_id + suffix, record_id + suffix, raw.place, {**record, **added}, raw.problem
                )
                if (grouped := self._grouped(question)) is not None:
                    yield grouped

    def _read(self, record: Record, place: str) -> list[tuple[str, Record]]:
        """What the reader makes of a record; without one it is a single question."""
        try:
            return list(self._reader.questions(record)) if self._reader else [("", {})]
        except ValueError as error:
            self.fields.refuse(f"{place}: {error}")

    def _id(self, record: Record, place: str) -> str:
        value = record.get(str(self.definition.id))
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or str(value).strip() == "":
            self.fields.refuse(f"{place}: there is no id in `{self.definition.id}`")
        return str(value)

    def _grouped(self, question: _Question) -> _Question | None:
        """The question in the group of its rotations; None for a rotation that is not asked."""
        if not self.definition.circular or not question.id.isdecimal() or int(question.id) < ROTATIONS_FROM:
            return question
        if not is_circular(self.benchmark):
            return None
        return replace(question, group=str(int(question.id) % ROTATIONS_FROM))

    def _raws(self) -> Iterator[Raw]:
        """The source's records; a source that cannot be read says for which benchmark it was."""
        try:
            yield from source_of(self.dataset).read(self.dataset, self.folders)
        except StudyError as error:
            public = self.definition.data
            usual = f" (published as {public.name}, split {public.split})" if public else ""
            told = f"{self.definition.title}{usual}: {error.message}"
            where = at(f"benchmarks.{self.name}.dataset")
            raise StudyError(where, told, exit_code=error.exit_code) from error

    def image_cells(self, record: Record) -> list[Any]:
        """What the record's images are, those that are shown."""
        return cells(record, self.definition.images) if self.shows_images else []


class _Asking:
    """Turns questions into rows for one model."""

    def __init__(self, reading: _Reading, tokenizer: Any, eyes: Eyes | None, found: _Found) -> None:
        self._reading, self._definition, self._fields = reading, reading.definition, reading.fields
        self._circular = is_circular(reading.benchmark) and not found.rotated
        self._converses = bool(getattr(tokenizer, "chat_template", None))
        if eyes is not None:
            places = eyes.places
            eyes = Eyes(eyes.vision, OncePlaces(places.base_dir, places.store, places.max_pixels))
        self._tokenize = Tokenize(tokenizer, DataSettings(), eyes)
        self._shared: dict[str, ImageBytes | Rejected] = {}
        self._shared = self._images_of(found.references)

    def _images_of(self, ids: set[str]) -> dict[str, ImageBytes | Rejected]:
        """The images of the records with these ids, which others name in place of an image of their own."""
        images: dict[str, ImageBytes | Rejected] = {}
        for question in self._reading.questions() if ids else ():
            if question.id in ids:
                try:
                    [image] = self._images(question.record)
                    images[question.id] = image
                except (Rejected, ValueError) as problem:
                    images[question.id] = Rejected("no such image", f"record {question.id}: {problem}")
        return images

    def rows(self, question: _Question) -> Iterator[Row]:
        """One row, or one per rotation of its options."""
        options = self._fields.options(question.record, question.place)
        images: list[ImageBytes] | Rejected
        try:
            images = Rejected(question.problem) if question.problem else self._images(question.record)
        except Rejected as problem:
            images = problem
        if not self._circular:
            yield self._row(question, question.id, options, images)
            return
        for by in range(len(options.texts)):
            yield self._row(question, f"{question.id}#{by}", options.rotated(by), images)

    def _images(self, record: Record) -> list[ImageBytes]:
        """Raises Rejected for one that is not there or cannot be read."""
        images = []
        for cell in self._reading.image_cells(record):
            shared = self._shared.get(referred(cell) or "")
            if isinstance(shared, Rejected):
                raise shared
            images.append(shared or image_of(cell, self._reading.folders))
        wanted = self._definition
        in_words = any(record.get(column) is not None for column in wanted.instead_of_images)
        if not images and wanted.images and not in_words and not wanted.images_optional:
            raise Rejected("no image", f"nothing in {', '.join((*wanted.images, *wanted.instead_of_images))}")
        return images

    def _row(self, question: _Question, row_id: str, options: Options, images: list[ImageBytes] | Rejected) -> Row:
        record, definition = question.record, self._definition
        num_images = 1 if isinstance(images, Rejected) else len(images)
        text = self._fields.prompt(record, question.place, options, num_images)
        answers = self._fields.answers(record, question.place)
        if options.right is not None:
            answers = (options.texts[options.right],)
        row = Row(
            row_id,
            (),
            options.letter or " | ".join(dict.fromkeys(answers)),
            options.texts,
            target=Target(
                answers, options.texts, options.letter, {name: value_at(record, name) for name in definition.facts}
            ),
            asked=MARKER.sub(" ", text).strip(),
            group=question.group if is_circular(self._reading.benchmark) else "",
            categories={name: in_words(value_at(record, name)) for name in definition.categories},
        )
        if isinstance(images, Rejected):
            return replace(row, problem=str(images))
        try:
            ids, facts = self._tokenize.prompt(self._example(text, tuple(images)))
        except Rejected as problem:
            return replace(row, problem=str(problem))
        return replace(row, prompt_ids=tuple(ids), images=facts)

    def _example(self, text: str, images: tuple[ImageBytes, ...]) -> Example:
        """A conversation with an empty answer, or for a model that knows no conversations a prompt with its own line.

        Images stand at the prompt's `<image>` marks if there are as many, else in front: whatever follows the images
        and is the same for several questions has to be encoded only once.
        """
        if len(images) == len(MARKER.findall(text)):
            marked = MARKER.sub(IMAGE_MARK, text)
        else:
            marked = IMAGE_MARK * len(images) + text
        if not self._converses:
            return Example(prompt=f"{marked}\n", completion="", images=images)
        system = self._reading.dataset.system
        turns = [{"role": "system", "content": system}] if system else []
        asked = [{"role": "user", "content": marked}, {"role": "assistant", "content": ""}]
        return Example(messages=(*turns, *asked), images=images)

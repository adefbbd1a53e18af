"""What a training set holds, as fingerprints: made once per data identity, kept in the study's cache, compared often.

`cache/overlap/<32 hex digits>/` is sealed. Per record: its id and content hash, prints of its sentences and runs of
words (`data/wording.py`), and which images it has; per image: SHA-256 and a small picture (`data/likeness.py`).
A record takes some 100 bytes and 8 per sentence and word, an image 4.7 KB on disk, of which blocks are mapped in turn.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import AnyDataset, Dataset
from tunestudy.data.corpus import Texts, mapped
from tunestudy.data.example import Example
from tunestudy.data.images import ImageBytes
from tunestudy.data.likeness import LENGTH, UNSEEN, Looks, Small, SmallPictures
from tunestudy.data.select import is_held_out, rank_of
from tunestudy.data.sources import Folders, source_of
from tunestudy.data.survey import Record, hashes_of, survey
from tunestudy.data.wording import Prints, evened, question_of, run_prints, sentence_prints, sentences, words
from tunestudy.records.atomic import temporary_beside
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.records.manifest import problems, read_manifest, seal

OVERLAP_VERSION = 1
"""Raised when the same data begin to give other fingerprints."""

MOST_RECORDS = 200_000
"""Of a larger set this share of records is looked at, chosen by hash of id."""
MOST_WORDS = 20_000
"""Runs of words are taken of the first this many words of a record."""

_ARRAYS: dict[str, Any] = {
    "content": np.uint64,
    "held_out": np.bool_,
    "num_words": np.int32,
    "sentences": np.uint64,
    "sentence_ends": np.int64,
    "runs": np.uint64,
    "run_ends": np.int64,
    "images": np.int32,
    "image_ends": np.int64,
    "hashes": np.uint8,
    "sizes": np.int32,
    "pictures": np.uint8,
    "id_block": np.uint8,
    "id_ends": np.int64,
}


@dataclass(frozen=True, eq=False)
class Trained:
    """The fingerprints of N records with I different images.

    Shapes: content (N,) as in a corpus; held_out (N,); num_words (N,) of what is asked; sentences and runs flat, their
    ends (N,); images flat: numbers of images, ends (N,); hashes (I, 32) SHA-256; looks of I images.
    """

    identity: str
    """Of the data set's records."""
    ids: Sequence[str]
    content: NDArray[np.uint64]
    held_out: NDArray[np.bool_]
    num_words: NDArray[np.int32]
    sentences: Prints
    sentence_ends: NDArray[np.int64]
    runs: Prints
    run_ends: NDArray[np.int64]
    images: NDArray[np.int32]
    image_ends: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    looks: Looks
    records: int
    """In the data set, of which N were looked at."""
    undecodable: int
    """Images that could not be decoded: they are known by their SHA-256 alone."""


def trained_on(name: str, dataset: AnyDataset, folders: Folders, study: StudyDir) -> Trained:
    """The fingerprints of a data set as it is now, made unless they are in the cache. StudyError where it cannot be
    read."""
    cache = study.cache / "overlap" / data_identity(dataset, folders)[:32]
    with Lease.acquire(study.leases / f"overlap-{cache.name}", wait_s=math.inf):
        if problems(cache, hashes=False):
            _make(cache, name, dataset, folders)
    return _opened(cache)


def data_identity(dataset: AnyDataset, folders: Folders) -> str:
    """SHA-256 over all that decides which records a data set has and on which side of its split they are."""
    settings = dataset.model_dump(mode="json", exclude={"max_rejected", "fetch", "num_workers"})
    parts = [OVERLAP_VERSION, MOST_RECORDS, settings, source_of(dataset).identity(dataset, folders)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _make(cache: Path, name: str, dataset: Dataset, folders: Folders) -> None:
    prepared = temporary_beside(cache)
    prepared.mkdir(parents=True)
    try:
        found = survey(name, dataset, folders)
        writer = _Writer()
        with open(prepared / "pictures", "wb") as file, SmallPictures(dataset.max_image_pixels) as pictures:
            share = MOST_RECORDS / max(found.num_chosen, MOST_RECORDS)
            for record in found.records():
                if share == 1 or rank_of(record.id, "overlap") < share * 2**64:
                    held_out = is_held_out(record.split_id, dataset.held_out)
                    writer.add(record, held_out=held_out)
                    pictures.ask(writer.new_images(record.example))
                    writer.write(pictures.made(), file)
            writer.write(pictures.rest(), file)
        for array, values in writer.arrays().items():
            (prepared / array).write_bytes(values.tobytes())
        facts = {"kind": "overlap", "records": found.num_chosen, "undecodable": writer.undecodable}
        seal(prepared, cache, facts)
    finally:
        shutil.rmtree(prepared, ignore_errors=True)


def _opened(cache: Path) -> Trained:
    facts = read_manifest(cache) or {}
    arrays = {name: mapped(cache / name, dtype) for name, dtype in _ARRAYS.items()}
    looks = Looks(arrays.pop("pictures").reshape(-1, LENGTH), arrays.pop("sizes").reshape(-1, 2))
    ids = Texts(arrays.pop("id_block"), arrays.pop("id_ends"))
    hashes = arrays.pop("hashes").reshape(-1, 32)
    return Trained(
        identity=cache.name,
        ids=ids,
        hashes=hashes,
        looks=looks,
        records=int(facts.get("records", len(ids))),
        undecodable=int(facts.get("undecodable", 0)),
        **arrays,
    )


@dataclass
class _Writer:
    """Takes records one at a time; pictures go to their file at once, all else is kept until the end."""

    ids: list[str] = field(default_factory=list)
    content: list[int] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)
    num_words: list[int] = field(default_factory=list)
    sentences: list[Prints] = field(default_factory=list)
    runs: list[Prints] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    undecodable: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    """SHA-256 → number of the image."""

    def add(self, record: Record, *, held_out: bool) -> None:
        said, runs = prints_of(record.example)
        self.ids.append(record.id)
        self.content.append(record.content)
        self.held_out.append(held_out)
        self.num_words.append(len(words(evened(question_of(record.example)))))
        self.sentences.append(said)
        self.runs.append(runs)

    def new_images(self, example: Example) -> list[ImageBytes]:
        """Note which images the latest record has; those that no record before it had."""
        hashes = hashes_of(example)
        new = {h: image for h, image in zip(hashes, example.images, strict=True) if h not in self.numbers}
        self.numbers.update({h: len(self.numbers) + place for place, h in enumerate(new)})
        self.images.append([self.numbers[h] for h in hashes])
        return list(new.values())

    def write(self, pictures: Iterable[Small], file: BinaryIO) -> None:
        for picture, size in pictures:
            self.undecodable += size == UNSEEN
            file.write(picture.tobytes())
            self.sizes.append(size)

    def arrays(self) -> dict[str, NDArray[Any]]:
        ids = Texts.of(self.ids)
        flat = {
            "sentences": _joined(self.sentences),
            "runs": _joined(self.runs),
            "images": np.array([number for numbers in self.images for number in numbers]),
            "sentence_ends": np.cumsum([len(prints) for prints in self.sentences]),
            "run_ends": np.cumsum([len(prints) for prints in self.runs]),
            "image_ends": np.cumsum([len(numbers) for numbers in self.images]),
        }
        plain = {name: np.array(getattr(self, name)) for name in ("held_out", "num_words", "sizes")}
        content = np.array(self.content, np.uint64)
        hashes = np.frombuffer(bytes.fromhex("".join(self.numbers)), np.uint8)
        found = {**flat, **plain, "content": content, "hashes": hashes, "id_block": ids.block, "id_ends": ids.ends}
        return {name: values.astype(_ARRAYS[name]) for name, values in found.items()}


def prints_of(example: Example) -> tuple[Prints, Prints]:
    """Of all that a record says, system prompts apart: its sentences by both ways of cutting them, and its runs."""
    asked = question_of(example)
    if example.messages:
        told = [m["content"] for m in example.messages if m["role"] == "assistant"]
    else:
        told = [example.completion] if example.completion else []
    texts = [evened(text) for text in (asked, *told)]
    found = {
        p for text in texts for by_line in (True, False) for p in sentence_prints(sentences(text, by_line=by_line))
    }
    runs = [run_prints(words(text)[:MOST_WORDS]) for text in texts]
    return np.array(sorted(found), np.uint64), np.unique(_joined(runs))


def _joined(parts: Sequence[Prints]) -> Prints:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)

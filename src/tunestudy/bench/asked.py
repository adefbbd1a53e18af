"""What a benchmark asks, as fingerprints that can be looked up in those of a training set."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunestudy.bench.tasks import Row
from tunestudy.data.images import ImageBytes, ImagePlaces
from tunestudy.data.likeness import Looks, alike, look_at
from tunestudy.data.overlap import Trained
from tunestudy.data.wording import (
    RUN,
    Prints,
    evened,
    run_prints,
    sentence_prints,
    sentences,
    words,
)

COMMON, FEWEST = 0.5, 4
"""A sentence in at least this share of the rows, and in so many, is an instruction: it tells no row from another."""

TEXT_AND_IMAGE, IMAGE, TEXT = "text+image", "image", "text"
KINDS = (TEXT_AND_IMAGE, IMAGE, TEXT)
"""The same question about the same images; a known image with another question; of rows without images, the text."""

Found = dict[str, list[tuple[str, str]]]
"""Kind → (row id, id of a record that matches it), a row once."""


@dataclass(frozen=True)
class _Said:
    """A row's text: its sentences by both ways of cutting them, and the runs of its words."""

    ways: tuple[Prints, ...]
    runs: Prints
    num_words: int


@dataclass(frozen=True, eq=False)
class Asked:
    """A benchmark's rows with the fingerprints of what they ask."""

    rows: Sequence[Row]
    said: Sequence[_Said]
    hashes: Sequence[str]
    """SHA-256 of the different images."""
    looks: Looks

    @property
    def undecodable(self) -> int:
        """Rows that cannot be asked, or whose images cannot be read: they are compared by their text alone."""
        unseen = {h for h, size in zip(self.hashes, self.looks.sizes, strict=True) if not size.any()}
        return sum(bool(row.problem) or any(i.sha256 in unseen for i in row.images) for row in self.rows)


def digest_of(rows: Sequence[Row]) -> str:
    """SHA-256 over all of a benchmark's rows that is compared."""
    parts = [json.dumps([r.id, r.asked, r.reference, r.choices, r.problem, [i.sha256 for i in r.images]]) for r in rows]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def asked_by(rows: Sequence[Row], places: ImagePlaces) -> Asked:
    """The fingerprints of a benchmark's rows; every image is decoded once."""
    facts = {image.sha256: image for row in rows for image in row.images}
    images = [ImageBytes(places.path(f), f.offset, f.length, sha256=f.sha256) for f in facts.values()]
    looks = look_at(images, max_pixels=places.max_pixels)
    return Asked(rows, _said_by(rows), list(facts), looks)


def _said_by(rows: Sequence[Row]) -> list[_Said]:
    """What rows say, without instructions that many of them share; of rows with images, without options."""
    texts = [evened(row.asked) or evened(row.reference) for row in rows]
    left = []
    for by_line in (True, False):
        cut = [_telling(sentences(text, by_line=by_line), row) for text, row in zip(texts, rows, strict=True)]
        often = Counter(sentence for parts in cut for sentence in set(parts))
        limit = max(COMMON * len(rows), FEWEST)
        left.append([[s for s in parts if often[s] < limit] or parts for parts in cut])
    return [
        _Said(
            tuple(np.array(sentence_prints(parts), np.uint64) for parts in ways if parts),
            np.unique(run_prints(" ".join(ways[0]).split())),
            len(" ".join(ways[0]).split()),
        )
        for ways in zip(*left, strict=True)
    ]


def _telling(parts: list[str], row: Row) -> list[str]:
    """Sentences without the letters of options; where an image is asked about, without the options: others may be
    offered with the same question."""
    options = {" ".join(words(evened(choice))) for choice in row.choices} if row.images else set()
    return [s for s in parts if s not in options and not (len(s) == 1 and s.isalpha())] or parts


def overlap_with(asked: Asked, trained: Trained, used: NDArray[np.bool_]) -> Found:
    """Every row that a record in `used` (N,) matches.

    A row without images matches a record that holds all its sentences, or all its runs of 13 words; a text below 13
    words must also be at least half of what the record asks. A row with images matches a record that has images like
    all of its own, and holds its sentences or runs.
    """
    texts = _Texts(asked, trained, used)
    pictured = _pictured(asked, trained, used)
    found: Found = {kind: [] for kind in KINDS}
    for row, said in zip(asked.rows, asked.said, strict=True):
        if row.images:
            have = [pictured.get(image.sha256, _NONE) for image in row.images]
            both = _common([*have, texts.records(said)])
            if len(both):
                found[TEXT_AND_IMAGE].append((row.id, trained.ids[int(both[0])]))
            elif any(map(len, have)):
                found[IMAGE].append((row.id, trained.ids[int(next(h for h in have if len(h))[0])]))
        elif not row.problem:
            same = texts.records(said)
            if said.num_words < RUN:
                same = same[2 * said.num_words >= trained.num_words[same]]
            if len(same):
                found[TEXT].append((row.id, trained.ids[int(same[0])]))
    return found


Records = NDArray[np.int64]
_NONE: Records = np.empty(0, np.int64)


class _Texts:
    """Which records hold the sentences and runs that a benchmark asks."""

    def __init__(self, asked: Asked, trained: Trained, used: NDArray[np.bool_]) -> None:
        ways = [way for said in asked.said for way in said.ways]
        self._sentences = _holders(ways, trained.sentences, trained.sentence_ends, used)
        self._runs = _holders([said.runs for said in asked.said], trained.runs, trained.run_ends, used)

    def records(self, said: _Said) -> Records:
        """Those that hold all of a row's sentences, cut in one way or the other, or all its runs; rising."""
        held = [_common([self._sentences.get(p, _NONE) for p in way.tolist()]) for way in said.ways]
        held.append(_common([self._runs.get(p, _NONE) for p in said.runs.tolist()]))
        return np.unique(np.concatenate(held))


def _holders(
    wanted: Iterable[Prints], flat: Prints, ends: NDArray[np.int64], used: NDArray[np.bool_]
) -> dict[int, Records]:
    """Print → the used records that hold it."""
    parts = list(wanted)
    different = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    places = np.flatnonzero(np.isin(flat, different))
    records = np.searchsorted(ends, places, side="right")
    kept = used[records]
    return _grouped(flat[places[kept]], records[kept])


def _grouped(keys: NDArray[np.uint64], records: Records) -> dict[int, Records]:
    order = np.argsort(keys, kind="stable")
    different, starts = np.unique(keys[order], return_index=True)
    return dict(zip(different.tolist(), np.split(records[order], starts[1:]), strict=True)) if len(keys) else {}


def _common(parts: list[Records]) -> Records:
    """Records in all of these; none for no parts."""
    ordered = sorted(parts, key=len)
    common = ordered[0] if ordered else _NONE
    for part in ordered[1:]:
        common = np.intersect1d(common, part)
    return common


def _pictured(asked: Asked, trained: Trained, used: NDArray[np.bool_]) -> dict[str, Records]:
    """SHA-256 of an asked image → the used records with an image that is equal or looks alike; rising."""
    known = {trained.hashes[n].tobytes().hex(): n for n in range(len(trained.hashes))}
    pairs = {(i, known[h]) for i, h in enumerate(asked.hashes) if h in known}
    pairs.update(alike(asked.looks, trained.looks))
    numbers = np.array(sorted({number for _, number in pairs}), np.int32)
    places = np.flatnonzero(np.isin(trained.images, numbers))
    records = np.searchsorted(trained.image_ends, places, side="right")
    kept = used[records]
    having = _grouped(trained.images[places[kept]].astype(np.uint64), records[kept])
    found: dict[str, list[Records]] = {}
    for i, number in sorted(pairs):
        found.setdefault(asked.hashes[i], []).append(having.get(number, _NONE))
    return {h: np.unique(np.concatenate(parts)) for h, parts in found.items()}

"""The first pass over a data set: formats told, bad records counted, ids settled, records chosen; nothing tokenised.

A data set that cannot be used fails here, before the long work begins.
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import Dataset
from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.paths import located
from tunestudy.data.example import Example
from tunestudy.data.formats import RecordReader
from tunestudy.data.groups import ImageGroups
from tunestudy.data.rejected import Rejected
from tunestudy.data.select import LIMIT_SEED, smallest
from tunestudy.data.sources import Folders, Raw, source_of

EXAMPLES = 3
"""Bad records shown in an error."""


@dataclass(frozen=True, slots=True)
class Record:
    """A usable record. Duplicates share `split_id`, so that they always fall on the same side of a split."""

    id: str
    split_id: str
    place: str
    example: Example
    content: int
    """The first 64 bits of the content hash."""


@dataclass
class Tally:
    """What became of a data set's records."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Records left out because an image could not be fetched, by reason."""
    examples: list[str] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return self.read - self.lost.total() - self.rejected.total()

    def reject(self, place: str, problem: Rejected) -> None:
        self.rejected[problem.reason] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{place}: {problem}")

    def check(self, name: str, dataset: Dataset, *, where: str = "") -> None:
        """Refuse a data set with no record, or with more bad ones than it may have; `where`: in which of its records.

        Of web images a third is usually gone: what could not be fetched counts neither as bad nor as read here.
        """
        bad, read = self.rejected.total(), self.read - self.lost.total()
        key = at(f"datasets.{name}")
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.most_common())
        told = f"({reasons}); first: {'; '.join(self.examples)}"
        if self.read == 0:
            raise StudyError(key, "holds no records", exit_code=Exit.PREFLIGHT_REFUSED)
        if read == 0:
            why = ", ".join(f"{reason} {count}" for reason, count in self.lost.most_common())
            raise StudyError(key, f"none of its {self.read} images is here ({why})", exit_code=Exit.PREFLIGHT_REFUSED)
        if bad == read:
            raise StudyError(
                key, f"none of its {bad} records{where} can be used {told}", exit_code=Exit.PREFLIGHT_REFUSED
            )
        if bad > dataset.max_rejected * read:
            raise StudyError(
                key,
                f"{bad} of {read} records{where} are bad, over max_rejected ({dataset.max_rejected:g}) {told}",
                exit_code=Exit.PREFLIGHT_REFUSED,
            )


@dataclass(frozen=True)
class Survey:
    """What one pass over a data set has found; `records()` passes over it again and yields what was chosen."""

    name: str
    dataset: Dataset
    folders: Folders
    own_ids: bool
    """Every record has its own, unique `id`."""
    repeated: frozenset[int]
    """Content hashes that occur more than once."""
    groups: ImageGroups
    """Of images that several records ask about."""
    chosen: NDArray[np.bool_] | None
    """(usable records,) which of them `limit` keeps; None: all."""
    tally: Tally
    """Rejected before tokenising."""
    bad: tuple[dict[str, str], ...]
    """Manifest rows of the records rejected here."""

    @property
    def num_chosen(self) -> int:
        return self.tally.usable if self.chosen is None else int(self.chosen.sum())

    def records(self) -> Iterator[Record]:
        """The chosen records in their order."""
        return (record for _, record in self.records_with_columns())

    def records_with_columns(self) -> Iterator[tuple[dict[str, Any], Record]]:
        """The chosen records in their order, each behind the columns that it was made of."""
        seen: Counter[int] = Counter()
        index = -1
        for raw, own_id, outcome in _examples(self.name, self.dataset, self.folders):
            if isinstance(outcome, Rejected):
                continue
            index += 1
            digest = outcome.content_hash()
            content = int.from_bytes(digest[:8], "little")
            record_id = split_id = str(own_id) if self.own_ids else digest.hex()
            split_id = self.groups.key(hashes_of(outcome)) or split_id
            if not self.own_ids and content in self.repeated:
                seen[content] += 1
                record_id = f"{record_id}-{seen[content]}" if seen[content] > 1 else record_id
            if self.chosen is None or self.chosen[index]:
                yield raw.columns, Record(record_id, split_id, raw.place, outcome, content)


def survey(name: str, dataset: Dataset, folders: Folders) -> Survey:
    """Read a data set once. Raises StudyError when it cannot be used."""
    tally, bad = Tally(), []
    contents, ids, groups = array("Q"), _IdCheck(), ImageGroups()
    for raw, own_id, outcome in _examples(name, dataset, folders):
        tally.read += 1
        if isinstance(outcome, Rejected):
            if raw.lost:
                tally.lost[outcome.reason] += 1
            else:
                tally.reject(raw.place, outcome)
            told_id = str(raw.columns.get("id", "")) if own_id is None else str(own_id)
            bad.append({"id": told_id, "source": name, "line": raw.place, "reason": str(outcome)})
            continue
        ids.see(own_id)
        contents.append(int.from_bytes(outcome.content_hash()[:8], "little"))
        if dataset.held_out:
            groups.add(hashes_of(outcome))
    tally.check(name, dataset)
    values, counts = np.unique(np.frombuffer(contents, np.uint64), return_counts=True)
    own_ids = ids.all_unique()
    repeated = frozenset(values[counts > 1].tolist())
    found = Survey(name, dataset, folders, own_ids, repeated, groups, None, tally, tuple(bad))
    if dataset.limit is None or dataset.limit >= len(contents):
        return found
    chosen = np.zeros(len(contents), np.bool_)
    chosen[smallest((record.id for record in found.records()), dataset.limit, LIMIT_SEED)] = True
    return replace(found, chosen=chosen)


def hashes_of(example: Example) -> list[str]:
    """SHA-256 of each of a record's images."""
    return [image.sha256 for image in example.images if image.sha256]


def image_base(dataset: Dataset, folders: Folders) -> Path:
    """Where relative paths of a data set's images start: as it says, else beside its file."""
    if dataset.image_folder is not None:
        return located(folders.base, dataset.image_folder)
    path = located(folders.base, getattr(dataset, "path", None) or ".")
    return path if path.is_dir() else path.parent


class _IdCheck:
    """Whether every record has an `id` and no two share one, in eight bytes a record."""

    def __init__(self) -> None:
        self._hashes, self._complete = array("q"), True

    def see(self, value: Any) -> None:
        self._complete = self._complete and isinstance(value, str | int) and value != ""
        if self._complete:
            self._hashes.append(hash(str(value)))

    def all_unique(self) -> bool:
        hashes = np.frombuffer(self._hashes, np.int64)
        return self._complete and len(hashes) > 0 and len(np.unique(hashes)) == len(hashes)


def _examples(name: str, dataset: Dataset, folders: Folders) -> Iterator[tuple[Raw, Any, Example | Rejected]]:
    """Every record with its own id and its example, or the reason against it."""
    reader: RecordReader | None = None
    folders = replace(folders, image_base=image_base(dataset, folders))
    for raw in source_of(dataset).read(dataset, folders):
        if raw.problem:
            yield raw, None, Rejected(raw.problem)
            continue
        reader = reader or RecordReader(name, dataset, raw.columns, folders)
        outcome: Example | Rejected
        try:
            outcome = reader.example(raw.columns)
        except Rejected as problem:
            outcome = problem
        yield raw, reader.id_of(raw.columns), outcome
    if reader is not None:
        reader.check_columns()

"""Where fetched images lie: `cache/images/`, by content, and one folder of manifests per data set in `cache/fetch/`.

    cache/fetch/<key>/fetch.json               how many records there are, in shards of which size
    cache/fetch/<key>/shard-00000.jsonl        one line per record, in their order
    cache/fetch/<key>/shard-00000.json         written last: the shard is complete; hashes and counts
    cache/fetch/<key>/shard-00000.journal.jsonl  while the shard is under way

The key covers the records and the settings that decide which images are taken, never a place on a disk.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.data import Dataset
from tunestudy.config.paths import located
from tunestudy.records.atomic import read_json
from tunestudy.records.hashes import content_of

KEY_DIGITS = 16
IMAGE_COLUMNS = ("image", "images")

_SOURCE_FIELDS = {"type", "name", "subset", "split", "revision", "num_samples"}


@dataclass(frozen=True)
class FetchDir:
    """`cache/fetch/<key>/`."""

    root: Path

    @property
    def fetch_json(self) -> Path:
        return self.root / "fetch.json"

    def manifest(self, shard: int) -> Path:
        return self.root / f"shard-{shard:05d}.jsonl"

    def summary(self, shard: int) -> Path:
        """There if and only if the shard is complete."""
        return self.root / f"shard-{shard:05d}.json"

    def journal(self, shard: int) -> Path:
        return self.root / f"shard-{shard:05d}.journal.jsonl"

    def num_shards(self) -> int | None:
        """How many there will be; None before the first fetch."""
        begun = read_json(self.fetch_json)
        return None if begun is None else -(-int(begun["records"]) // int(begun["shard_size"]))

    def num_complete(self) -> int:
        """Shards from the first on that are complete without a gap."""
        count = 0
        while self.summary(count).exists():
            count += 1
        return count

    def images(self, shards: int) -> list[str] | None:
        """Digest of the images of each of the first `shards` shards; None when one is not complete."""
        summaries = [read_json(self.summary(shard)) for shard in range(shards)]
        return None if None in summaries else [str(summary["images_sha256"]) for summary in summaries]


def files_of(dataset: Dataset, base: Path, hash_of: Callable[[Path], str] | None = None) -> Any:
    """Hashes of the files that a data set's `path` names, as `content_of` gives them; None where it has no path.

    `base`: the study file's folder.
    """
    path = getattr(dataset, "path", None)
    return None if path is None else content_of(located(base, path), hash_of)


def fetch_key(dataset: Dataset, content: Any) -> str:
    """The folder's name: 16 hex digits over the records and the settings that decide which images are taken.

    `content`: hashes of the data set's files (`files_of`), None where it has none.
    """
    fetch = dataset.fetch  # type: ignore[attr-defined]
    columns = {name: dataset.columns[name] for name in IMAGE_COLUMNS if name in dataset.columns}
    source = dataset.model_dump(mode="json", include=_SOURCE_FIELDS)
    source |= dataset.model_dump(mode="json", include={"drawn"}, exclude_none=True)
    parts = [source, columns, content, fetch.deciding()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def shards_wanted(dataset: Dataset, folder: FetchDir) -> int | None:
    """How many shards the data set trains on; None before the first fetch."""
    there = folder.num_shards()
    limit = dataset.fetch.shards  # type: ignore[attr-defined]
    return there if there is None or limit is None else min(there, limit)


def images_digest(dataset: Dataset, folder: FetchDir) -> str | None:
    """SHA-256 over which images came for the shards that the data set trains on; None while one is missing."""
    wanted = shards_wanted(dataset, folder)
    digests = folder.images(wanted) if wanted is not None else None
    return None if digests is None else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def what_is_missing(dataset: Dataset, folder: FetchDir) -> str:
    """Why the data set cannot be trained on yet, and what to do; empty when all its images have been asked for."""
    wanted, there = shards_wanted(dataset, folder), folder.num_complete()
    if wanted is None or (there == 0 and wanted > 0):
        return "its images have not been fetched; first `tunestudy fetch STUDY`"
    if there < wanted:
        return (
            f"only {there} of {wanted} shards of its images have been fetched; `tunestudy fetch STUDY` goes on, "
            f"or `fetch: {{shards: {there}}}` trains on those"
        )
    return ""

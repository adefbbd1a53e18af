"""One shard of records under way: what it wants, what is known already, and its files when all of it is settled."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice

from tunestudy.config.data import Dataset
from tunestudy.data.fetch.manifest import (
    Journal,
    Key,
    Outcome,
    Redacted,
    read_journal,
    read_manifest,
    write_manifest,
)
from tunestudy.data.fetch.wanted import Want, fetch_settings, image_columns, wants
from tunestudy.data.sources import Raw
from tunestudy.data.store import ImageStore
from tunestudy.records.fetched import FetchDir


class Shard:
    """The wanted images of consecutive records, and what became of them so far."""

    def __init__(self, folder: FetchDir, number: int, lines: Sequence[Sequence[Want]], redacted: Redacted) -> None:
        self.number = number
        self._folder = folder
        self._lines = [[(redacted(want.url), want.expected) for want in line] for line in lines]
        pairs = zip(self._lines, lines, strict=True)
        self._urls = {key: want.url for keys, line in pairs for key, want in zip(keys, line, strict=True)}
        self._known: dict[Key, Outcome] = {}
        self._journal = Journal(folder.journal(number))
        self._times = Counter(key for line in self._lines for key in line)
        self.num_images = self._times.total()

    def recall(self, store: ImageStore, *, retry_failed: bool) -> None:
        """Take over what earlier runs settled, except images that the store has lost and, if asked, failures."""
        if self._folder.summary(self.number).exists():
            for keys, line in zip(self._lines, read_manifest(self._folder, self.number), strict=True):
                self._take_over(zip(keys, line, strict=True), store, retry_failed)
        journal = read_journal(self._folder.journal(self.number))
        self._take_over(((key, outcome) for key, outcome in journal if key in self._urls), store, retry_failed=False)

    def _take_over(self, told: Iterator[tuple[Key, Outcome]], store: ImageStore, retry_failed: bool) -> None:
        for key, outcome in told:
            if outcome.ok and store.size(outcome.sha256) == outcome.bytes:
                self._known[key] = outcome
            elif not outcome.ok and not retry_failed:
                self._known.setdefault(key, outcome)

    @property
    def num_known(self) -> int:
        """Images that are settled, each as often as records name it."""
        return sum(times for key, times in self._times.items() if key in self._known)

    def missing(self) -> dict[Key, str]:
        """What is still to be settled, each image once: key → its URL."""
        return {key: url for key, url in self._urls.items() if key not in self._known}

    def settle(self, key: Key, outcome: Outcome) -> int:
        """Note what became of an image; returns how often the shard's records name it."""
        self._known[key] = outcome
        self._journal.add(key, outcome)
        return self._times[key]

    def flush(self) -> None:
        """Put what was noted on the disk. Raises OSError."""
        self._journal.flush()

    def close(self) -> None:
        """Leave a shard under way to the next run."""
        self._journal.flush()
        self._journal.close()

    def finish(self) -> None:
        """Write the manifest: every image is settled."""
        self._journal.close()
        write_manifest(self._folder, self.number, [tuple(self._known[key] for key in line) for line in self._lines])


def shards_of(
    raws: Iterator[Raw], dataset: Dataset, folder: FetchDir, size: int, skip: Callable[[int], bool]
) -> Iterator[Shard]:
    """Shards of `size` records in their order, without those to `skip`; the last may be shorter."""
    settings = fetch_settings(dataset)
    assert settings is not None, "only a data set with `fetch` has shards"
    names, redacted = image_columns(dataset), Redacted()
    for number in count():
        records = list(islice(raws, size))
        if not records:
            return
        if not skip(number):
            lines = [[] if raw.problem else wants(raw.columns, names, verify=settings.verify_sha256) for raw in records]
            yield Shard(folder, number, lines, redacted)

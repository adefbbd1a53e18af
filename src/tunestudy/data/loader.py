"""Micro-batches in the order of the steps, those with images made ahead of their time.

Decoding and resizing let go of Python's lock, so threads are enough. What is made ahead is a pure function of the step:
the number of threads changes no batch, and a run that starts anywhere starts right.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count

from tunestudy.data.batch import Batch, Layout, Row, batch_of, shares_of
from tunestudy.data.corpus import Corpus
from tunestudy.data.order import Schedule
from tunestudy.data.vision import Eyes

AHEAD = 2
"""Micro-batches made ahead per thread."""

Maker = Callable[[], Batch]


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """How rows become this rank's micro-batches."""

    layout: Layout
    rank: int
    world_size: int
    eyes: Eyes | None = None
    """Of a model that takes images."""

    def shares(self, corpus: Corpus, rows: Sequence[Row], micro_batch: int) -> list[list[Row]]:
        """This rank's part of some rows, `micro_batch` at a time; as many parts on every rank."""
        return shares_of(corpus, rows, rank=self.rank, world_size=self.world_size, micro_batch=micro_batch)

    def batch(self, corpus: Corpus, share: Sequence[Row], *, mark_samples: bool = False) -> Batch:
        """One micro-batch."""
        return batch_of(corpus, share, self.layout, mark_samples=mark_samples, eyes=self.eyes)

    def threads(self, corpus: Corpus, workers: int) -> int:
        """Text is put together faster than a thread is woken."""
        return 0 if corpus.images is None else workers


@dataclass(frozen=True)
class Share:
    """A micro-batch that may not be made yet."""

    num_targets: int
    batch: Maker
    samples: tuple[int, ...] = ()
    """Places in the corpus."""


class Loader:
    """The micro-batches of every optimiser step on this rank."""

    def __init__(self, corpus: Corpus, schedule: Schedule, cutter: Cutter, micro_batch: int, workers: int) -> None:
        """workers: threads; 0 makes each batch when it is asked for."""
        self._corpus, self._schedule, self._cutter, self._micro_batch = corpus, schedule, cutter, micro_batch
        self._workers = cutter.threads(corpus, workers)
        self._made: Generator[Batch, None, None] | None = None
        self._next = (-1, 0)
        """Step and number of the batch that `_made` gives next."""
        self._sizes: dict[int, int] = {}
        self.waited_s = 0.0
        """Seconds in which nobody could compute, since a micro-batch was not made yet."""

    @property
    def layout(self) -> Layout:
        """How rows lie in a micro-batch."""
        return self._cutter.layout

    def of_step(self, step: int) -> list[Share]:
        """Of 0-based `step`, to be made in their order; some or all of them may be left out."""
        shares = self._shares(step)
        samples = [tuple(sample for row in share for sample in row) for share in shares]
        counts = [int(sum(self._corpus.num_targets_of(sample) for sample in mine)) for mine in samples]
        return [
            Share(targets, partial(self._take, step, i), mine)
            for i, (targets, mine) in enumerate(zip(counts, samples, strict=True))
        ]

    def of_rows(self, rows: Sequence[Row]) -> list[Share]:
        """Of any rows, whatever the schedule says; each made when it is asked for."""
        shares = self._cutter.shares(self._corpus, rows, self._micro_batch)
        counts = [int(sum(self._corpus.num_targets_of(sample) for row in share for sample in row)) for share in shares]
        makers = [partial(self._cutter.batch, self._corpus, share) for share in shares]
        return [Share(count, make) for count, make in zip(counts, makers, strict=True)]

    def close(self) -> None:
        """Let threads go, and what they have made ahead."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _shares(self, step: int) -> list[list[Row]]:
        return self._cutter.shares(self._corpus, self._schedule.rows_of_step(step), self._micro_batch)

    def _take(self, step: int, number: int) -> Batch:
        if self._made is None or (step, number) < self._next or step > self._next[0] + 1:
            self._next, self._made = (step, 0), made_ahead(self._makers(step), self._workers)
        while True:
            began = time.perf_counter()
            at, batch = self._next, next(self._made)
            self.waited_s += time.perf_counter() - began
            last = at[1] + 1 == self._sizes[at[0]]
            self._next = (at[0] + 1, 0) if last else (at[0], at[1] + 1)
            if last:
                del self._sizes[at[0]]
            if at == (step, number):
                return batch

    def _makers(self, first: int) -> Iterator[Maker]:
        self._sizes.clear()
        for step in count(first):
            shares = self._shares(step)
            self._sizes[step] = len(shares)
            for share in shares:
                yield partial(self._cutter.batch, self._corpus, share)


def made_ahead(makers: Iterable[Maker], workers: int) -> Generator[Batch, None, None]:
    """What the makers make, in their order, by `workers` threads; with none, when it is asked for."""
    if workers == 0:
        yield from (make() for make in makers)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(workers, "images") as pool:
        try:
            for make in makers:
                waiting.append(pool.submit(make))
                if len(waiting) > AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

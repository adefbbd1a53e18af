"""Which rows an optimiser step sees: a pure function of (seed, epoch, data).

Nothing here knows the world size, the number of workers or how a step is cut into micro-batches, so a resumed run
needs no cursor but its step number, and hardware never changes what a model sees.
"""

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.data import DataSettings, samples_per_epoch
from tunestudy.config.errors import StudyError, at
from tunestudy.config.order import Curriculum
from tunestudy.data.batch import Row
from tunestudy.data.corpus import Corpus
from tunestudy.data.pack import pack

Indices = NDArray[np.int64]

GROUP_STEPS = 64
"""Steps whose samples are sorted together by `length_grouped`: even batches, yet still random."""

KEPT_EPOCHS = 2
"""Epochs whose order stays in memory: the one in progress and its neighbour at the border."""


@dataclass(frozen=True)
class EpochRows:
    """The rows of one epoch: sample indices (N,) in order, and the borders (R+1,) of rows among them."""

    samples: Indices
    borders: Indices

    def __len__(self) -> int:
        return len(self.borders) - 1

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start` to `stop` (or the last one)."""
        borders = self.borders[start : min(stop, len(self)) + 1].tolist()
        first = borders[0]
        samples = self.samples[first : borders[-1]].tolist()
        return [tuple(samples[a - first : b - first]) for a, b in pairwise(borders)]


class Schedule:
    """The rows of every optimiser step of a stage.

    A source of a mixture is drawn in passes: none of its samples comes twice before each has come once, even when an
    epoch takes only a part of the source or more than the whole.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: DataSettings,
        seed: int,
        effective_batch_size: int,
        places: Indices | None = None,
    ) -> None:
        """places: (N,) of a curriculum, −1 for a sample that the stage leaves out (`data.curriculum.places_of`)."""
        assert len(corpus) > 0 and effective_batch_size > 0
        self._corpus, self._settings, self._step_rows = corpus, settings, effective_batch_size
        self._seed = seed if settings.data_seed is None else settings.data_seed
        self._members = [corpus.of_source(index) for index in range(len(corpus.sources))]
        self._curriculum = settings.order if isinstance(settings.order, Curriculum) else None
        assert (places is not None) == (self._curriculum is not None), "a curriculum needs every sample's place"
        self._places = np.zeros(0, np.int64) if places is None else places
        if places is not None:
            self._members = [members[places[members] >= 0] for members in self._members]
            self._check_members()
        available = [len(members) for members in self._members]
        self.samples_per_epoch = samples_per_epoch(available, settings.data) if settings.data else available
        """(S,) how many samples each source gives to an epoch: the same in every epoch."""
        self._epochs: OrderedDict[int, EpochRows] = OrderedDict()
        self._first_step = [0]  # first step of epochs 0, 1, … as far as they were needed

    def _check_members(self) -> None:
        """That `take` and missing values leave something of every source that must give a share."""
        counts = [len(members) for members in self._members]
        weighted = any(part.weight is not None for part in self._settings.data)
        for name, count in zip(self._corpus.sources, counts, strict=True):
            if sum(counts) == 0 or (weighted and count == 0):
                raise StudyError(
                    at("order.take"),
                    f"nothing of {name} lies in this part of the order, so it cannot give its share; widen `take`"
                    f"{', or leave the weights of `data` out' if weighted else ''}",
                )

    def rows_of_step(self, step: int) -> list[Row]:
        """The rows of 0-based optimiser step `step`; the last step of an epoch may have fewer."""
        epoch = self.epoch_of_step(step)
        start = (step - self._first_step[epoch]) * self._step_rows
        return self._rows_of_epoch(epoch).rows(start, start + self._step_rows)

    def epoch_of_step(self, step: int) -> int:
        """The 0-based epoch that a 0-based step belongs to."""
        while self._first_step[-1] <= step:
            self._learn_next_epoch()
        return int(np.searchsorted(self._first_step, step, side="right")) - 1

    def first_step_of_epoch(self, epoch: int) -> int:
        """The 0-based step that opens an epoch."""
        while len(self._first_step) <= epoch:
            self._learn_next_epoch()
        return self._first_step[epoch]

    def steps_in_epoch(self, epoch: int) -> int:
        """Optimiser steps of an epoch; packing may make this differ from epoch to epoch."""
        return self.first_step_of_epoch(epoch + 1) - self.first_step_of_epoch(epoch)

    def total_steps(self, num_train_epochs: float, max_steps: int | None) -> int:
        """Steps of the stage; a part of an epoch is rounded up to whole steps, `max_steps` overrides."""
        if max_steps is not None:
            return max_steps
        whole, part = int(num_train_epochs), num_train_epochs % 1
        steps = self.first_step_of_epoch(whole)
        return steps + (math.ceil(part * self.steps_in_epoch(whole) - 1e-9) if part else 0)

    def times_drawn(self, total_steps: int) -> Indices:
        """(N,) how often each sample comes in the first `total_steps` steps. Whole epochs need no packing to tell."""
        last = self.epoch_of_step(total_steps - 1)
        whole = last + 1 if total_steps == self.first_step_of_epoch(last + 1) else last
        times = np.zeros(len(self._corpus), np.int64)
        for epoch in range(whole):
            times += np.bincount(self._drawn_of_all(epoch), minlength=len(times))
        if whole == last:
            rows = self._rows_of_epoch(last)
            taken = (total_steps - self.first_step_of_epoch(last)) * self._step_rows
            times += np.bincount(rows.samples[: rows.borders[min(taken, len(rows))]], minlength=len(times))
        return times

    def _learn_next_epoch(self) -> None:
        epoch = len(self._first_step) - 1
        count = len(self._rows_of_epoch(epoch)) if self._settings.packing else sum(self.samples_per_epoch)
        self._first_step.append(self._first_step[-1] + -(-count // self._step_rows))

    def _rows_of_epoch(self, epoch: int) -> EpochRows:
        if epoch not in self._epochs:
            self._epochs[epoch] = self._make_epoch(epoch)
            while len(self._epochs) > KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> EpochRows:
        samples = self._samples_of_epoch(epoch)
        lengths = self._corpus.lengths[samples]
        if self._settings.packing:
            images = None if self._corpus.images is None else self._corpus.images.counts[samples]
            order, borders = pack(lengths, self._settings.max_length, images, self._settings.max_images_per_pack)
            rows = EpochRows(samples[order], borders)
            in_order = self._settings.order == "sequential" or self._curriculum is not None
            return rows if in_order else shuffled_rows(rows, self._seed, epoch)
        if self._settings.order == "length_grouped":
            samples = samples[group_by_length(lengths, self._step_rows, self._seed, epoch)]
        return EpochRows(samples, np.arange(len(samples) + 1))

    def _samples_of_epoch(self, epoch: int) -> Indices:
        drawn = self._drawn_of_all(epoch)
        if self._settings.order == "sequential":
            return drawn
        if self._curriculum is not None:
            return walk(drawn, self._places, self._curriculum.buckets, self._seed, epoch)
        return drawn[permutation(len(drawn), self._seed, "epoch", epoch)]

    def _drawn_of_all(self, epoch: int) -> Indices:
        return np.concatenate([self._drawn(source, epoch) for source in range(len(self._members))])

    def _drawn(self, source: int, epoch: int) -> Indices:
        """What one source gives to an epoch: the next stretch of its endless row of passes."""
        members, wanted = self._members[source], self.samples_per_epoch[source]
        start = epoch * wanted
        parts = []
        while wanted > 0:
            number, offset = divmod(start, len(members))
            part = self._pass(source, number)[offset : offset + wanted]
            parts.append(part)
            start, wanted = start + len(part), wanted - len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _pass(self, source: int, number: int) -> Indices:
        members = self._members[source]
        if self._settings.order == "sequential":
            return members
        return members[permutation(len(members), self._seed, "pass", self._corpus.sources[source], source, number)]


def permutation(count: int, seed: int, *key: int | str) -> Indices:
    """A permutation of `count`, a pure function of (seed, key).

    It sorts raw Philox output: numpy promises that stream for ever, while its `permutation` may change.
    """
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()
    raw = np.random.Philox(key=np.frombuffer(digest, np.uint64)).random_raw(count)
    return np.argsort(raw, kind="stable")


def walk(drawn: Indices, places: Indices, buckets: int | None, seed: int, epoch: int) -> Indices:
    """Samples drawn for an epoch in the order of their places, shuffled inside each of `buckets` equal parts."""
    ordered = drawn[np.argsort(places[drawn], kind="stable")]
    if buckets is None:
        return ordered
    parts = np.array_split(ordered, buckets)
    return np.concatenate(
        [part[permutation(len(part), seed, "bucket", epoch, number)] for number, part in enumerate(parts)]
    )


def group_by_length(lengths: Indices, step_rows: int, seed: int, epoch: int) -> Indices:
    """An order of shuffled samples in which the samples of a step have like lengths; steps stay shuffled.

    Sorts within groups of `GROUP_STEPS` steps; the last, partial step stays last.
    """
    group = np.arange(len(lengths)) // (step_rows * GROUP_STEPS)
    by_length = np.lexsort((lengths, group))
    whole_steps = len(lengths) // step_rows
    whole = by_length[: whole_steps * step_rows].reshape(whole_steps, step_rows)
    mixed = whole[permutation(whole_steps, seed, "steps", epoch)].reshape(-1)
    return np.concatenate([mixed, by_length[whole_steps * step_rows :]])


def shuffled_rows(rows: EpochRows, seed: int, epoch: int) -> EpochRows:
    """The same rows in random order: packing has left them sorted by length within its windows."""
    order = permutation(len(rows), seed, "packs", epoch)
    sizes = np.diff(rows.borders)[order]
    ends = np.cumsum(sizes)
    where = np.repeat(rows.borders[:-1][order] - (ends - sizes), sizes) + np.arange(len(rows.samples))
    return EpochRows(rows.samples[where], np.concatenate([[0], ends]))

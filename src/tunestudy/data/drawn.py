"""Which samples a stage draws, and how often, as digests that add up: arms of a study must see the same.

A multiset's digest is Σ times × SHA-256(data set, id) modulo 2²⁵⁶, so it knows no order, and the digests of a trial's
stages add up to that of all it saw: three stages on a third each equal one stage on the whole.
Source: AdHash of Bellare & Micciancio 1997, "A New Paradigm for Collision-Free Hashing".
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunestudy.data.corpus import Corpus
from tunestudy.data.order import Schedule

MODULUS = 2**256


def samples_drawn(schedule: Schedule, corpus: Corpus, total_steps: int) -> dict[str, Any]:
    """For data.json: samples of the first epoch and of the stage, and the digests of both multisets (64 hex digits)."""
    epoch = schedule.times_drawn(schedule.steps_in_epoch(0))
    stage = schedule.times_drawn(total_steps)
    epoch_sha256, stage_sha256 = multiset_digests(corpus, np.stack([epoch, stage]))
    return {
        "of_epoch": int(epoch.sum()),
        "of_stage": int(stage.sum()),
        "epoch_sha256": epoch_sha256,
        "samples_sha256": stage_sha256,
    }


def multiset_digests(corpus: Corpus, times: NDArray[np.int64]) -> list[str]:
    """The digest of each row of `times` (M, N): how often each sample comes."""
    totals = [0] * len(times)
    for index in np.flatnonzero(times.any(axis=0)).tolist():
        name = f"{corpus.sources[corpus.source[index]]}\0{corpus.sample_ids[index]}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")
        totals = [total + number * int(row[index]) for total, row in zip(totals, times, strict=True)]
    return [f"{total % MODULUS:064x}" for total in totals]

"""Choosing records by hash, so that a choice stays the same when data grow and on every machine."""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tunestudy.config.errors import StudyError, at

HELD_OUT = "@held_out"
LIMIT_SEED = 0


def rank_of(record_id: str, salt: int | str) -> int:
    """A 64-bit number, uniform over ids, independent between salts."""
    return int.from_bytes(hashlib.blake2b(f"{salt}:{record_id}".encode(), digest_size=8).digest(), "little")


def is_held_out(record_id: str, share: float) -> bool:
    """Whether a record belongs to the held-out share of its data set."""
    return rank_of(record_id, "held_out") < share * 2**64


def smallest(ids: Iterable[str], count: int, salt: int | str) -> NDArray[np.int64]:
    """Indices, in rising order, of the `count` ids of lowest rank; ties go to the earlier one."""
    ranks = np.fromiter((rank_of(record_id, salt) for record_id in ids), np.uint64)
    return np.sort(np.argsort(ranks, kind="stable")[:count])


def split_name(name: str) -> tuple[str, bool]:
    """`digits@held_out` → (`digits`, True); any other word after `@` is an error."""
    dataset, at_sign, split = name.partition("@")
    if at_sign and f"@{split}" != HELD_OUT:
        raise StudyError(at("data"), f"{name}: the only part of a data set that has a name is {dataset}{HELD_OUT}")
    return dataset, bool(at_sign)

"""Which rows of a benchmark are kept to look at: the worker that keeps their images and the report agree here.

A row's place depends on its id alone, so that every variant and seed keeps the same ones.
"""

import hashlib
from collections.abc import Collection, Iterable

SHARED_ROWS, WRONG_ROWS = 24, 12


def place_of(row_id: str) -> str:
    """What rows are sorted by before the first ones are taken: as good as random, the same everywhere."""
    return hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).hexdigest()


def picked(ids: Iterable[str], wrong: Collection[str]) -> list[str]:
    """The first `SHARED_ROWS` by place, the same whatever was answered, and after them the first `WRONG_ROWS` wrong."""
    ordered = sorted(set(ids), key=place_of)
    return ordered[:SHARED_ROWS] + [row for row in ordered[SHARED_ROWS:] if row in wrong][:WRONG_ROWS]


def thumbnail_name(sha256: str) -> str:
    """Of the file that shows the image of that hash."""
    return f"{sha256[:16]}.jpg"

"""The images of a public benchmark's record: files, bytes, base64 inside a table, or the id of a record with the same.

Source of the last two: the tables of VLMEvalKit (https://github.com/open-compass/VLMEvalKit), where a cell holds the
image in base64, and where records share an image, the id of the one that has it.
"""

import ast
import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.data.images import ImageBytes, ImageFacts, ImagePlaces, images_of
from tunestudy.data.rejected import Rejected
from tunestudy.data.sources import Folders

SHORTEST_BASE64 = 64
"""Characters; what is shorter is no image but a path or an id."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+=*\s*")


@dataclass(frozen=True)
class OncePlaces(ImagePlaces):
    """Decodes an image once for questions that follow each other: rotations, or several about a chart."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_last", {})

    def settle(self, image: ImageBytes) -> ImageFacts:
        """As its base class does."""
        last: dict[ImageBytes, ImageFacts] = self._last  # type: ignore[attr-defined]
        if image not in last:
            facts = super().settle(image)
            if len(last) >= 8:
                last.clear()
            last[image] = facts
        return last[image]


def cells(record: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    """What stands in the columns of images, one entry per image, absent ones left out."""
    return [cell for column in columns for cell in _cells(record.get(column))]


def _cells(value: Any) -> Iterator[Any]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            yield value
            return
    for cell in value if isinstance(value, list | tuple) else [value]:
        empty = cell is None or cell == "" or (isinstance(cell, Mapping) and not any(cell.values()))
        if not empty:
            yield cell


def referred(cell: Any) -> str | None:
    """The id of the record that has the image, if this cell can be one."""
    return cell.strip() if isinstance(cell, str) and cell.strip().isdecimal() else None


def image_of(cell: Any, folders: Folders) -> ImageBytes:
    """The image that a cell holds or names. Raises Rejected."""
    if isinstance(cell, str) and len(cell) > SHORTEST_BASE64 and _BASE64.fullmatch(cell):
        try:
            return ImageBytes(data=base64.b64decode("".join(cell.split()), validate=True))
        except binascii.Error as error:
            raise Rejected("not an image", f"base64: {error}") from error
    [image] = images_of(cell, folders, several=False)
    return image

"""WebDataset shards: a tar whose members share a key up to the first dot of their file name.

`a/000.jpg`, `a/000.txt` and `a/000.json` are one record: its image is read from its place in the tar when it is needed,
the JSON's keys and the texts are its columns. Several images of a record are its `images`, in the tar's order.
"""

import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.data.sources import Raw
from tunestudy.data.sources.halves import HALF, holds_half, may_hold_half

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
TEXTS = ("txt", "text", "caption", "cls")


def read_tar(path: Path) -> Iterator[Raw]:
    """Records in the tar's order; members that are neither image, text nor JSON are passed over."""
    try:
        with tarfile.open(path) as tar:
            files = (member for member in tar if member.isfile())
            for key, members in groupby(files, _key):
                yield _record(path, tar, key, list(members))
    except (tarfile.TarError, EOFError) as error:
        raise StudyError(
            at("datasets"), f"{path.name} cannot be read as tar: {error}", exit_code=Exit.PREFLIGHT_REFUSED
        ) from error


def _key(member: tarfile.TarInfo) -> str:
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}".lstrip("/")


def _record(path: Path, tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> Raw:
    columns: dict[str, Any] = {"id": key}
    images = []
    for member in members:
        kind = member.name.rpartition("/")[2].partition(".")[2].lower()
        if kind.rpartition(".")[2] in IMAGES:
            images.append({"path": str(path.resolve()), "offset": member.offset_data, "length": member.size})
        elif kind in TEXTS or kind == "json":
            content = tar.extractfile(member)
            assert content is not None
            try:
                text = content.read().decode()
                told = json.loads(text) if kind == "json" else {kind: text.strip()}
                if kind == "json" and may_hold_half(text) and holds_half(told):
                    return Raw(f"{path.name}:{member.name}", {}, HALF)
                columns |= told
            except (ValueError, TypeError) as error:
                return Raw(f"{path.name}:{member.name}", {}, f"not {kind.upper()}: {error}")
    if images:
        columns |= {"image": images[0]} if len(images) == 1 else {"images": images}
    return Raw(f"{path.name}:{key}", columns)

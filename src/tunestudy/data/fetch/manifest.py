"""What became of each image: manifests by shard, complete or under way.

A manifest has one line per record, in the records' order: an object for a record of one image, a list of objects for
any other number. A journal has one line per image, in the order in which they were settled; what a kill tore off is
fetched again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.appended import AppendedFile
from tunestudy.records.atomic import read_json, write_bytes, write_json
from tunestudy.records.fetched import FetchDir
from tunestudy.records.redact import redactor

OK, FAILED = "ok", "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image."""

    url: str
    status: str
    reason: str = ""
    """Empty for an image that is there."""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    """Pixels after EXIF orientation."""
    attempts: int = 0
    """Requests made for it; 0: it was there already, or its address was refused."""

    @property
    def ok(self) -> bool:
        return self.status == OK

    def as_dict(self) -> dict[str, Any]:
        """Its fields; `dataclasses.asdict` copies them deeply, which takes ten times as long."""
        return {name: getattr(self, name) for name in self.__slots__}


Line = tuple[Outcome, ...]
"""The images of one record."""
Key = tuple[str, str]
"""URL and the SHA-256 that is expected, empty for any: what is downloaded once."""


def encode(line: Line) -> str:
    """A manifest's line. Tokens in URLs stay out of it, as out of every file."""
    objects = [outcome.as_dict() for outcome in line]
    return json.dumps(objects[0] if len(objects) == 1 else objects)


def decode(text: str) -> Line:
    """What `encode` wrote. Raises ValueError, TypeError for anything else."""
    value = json.loads(text)
    return tuple(Outcome(**entry) for entry in (value if isinstance(value, list) else [value]))


def write_manifest(folder: FetchDir, shard: int, lines: Sequence[Line]) -> None:
    """Write a complete shard: its lines, then its summary, which makes it count; its journal is needed no more."""
    data = "".join(encode(line) + "\n" for line in lines).encode()
    images = [outcome for line in lines for outcome in line]
    folder.summary(shard).unlink(missing_ok=True)  # of an earlier fetch: it does not vouch for these lines
    write_bytes(folder.manifest(shard), data)
    write_json(
        folder.summary(shard),
        {
            "records": len(lines),
            "usable": sum(all(outcome.ok for outcome in line) for line in lines),
            "images": len(images),
            "ok": sum(outcome.ok for outcome in images),
            "bytes": sum(outcome.bytes for outcome in images),
            "failed": dict(Counter(outcome.reason for outcome in images if not outcome.ok).most_common()),
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
            "images_sha256": images_digest(lines),
        },
    )
    folder.journal(shard).unlink(missing_ok=True)


def images_digest(lines: Iterable[Line]) -> str:
    """SHA-256 over which image each record has: the same wherever and in however many attempts it was fetched."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update((" ".join(outcome.sha256 if outcome.ok else "-" for outcome in line) + "\n").encode())
    return digest.hexdigest()


def read_manifest(folder: FetchDir, shard: int) -> list[Line]:
    """The lines of a complete shard. Raises StudyError when it is not what was written."""
    summary = read_json(folder.summary(shard))
    try:
        data = folder.manifest(shard).read_bytes()
    except FileNotFoundError:
        data = b""
    if summary is None or hashlib.sha256(data).hexdigest() != summary["manifest_sha256"]:
        where = "/".join(folder.manifest(shard).parts[-3:])
        cure = f"delete it and {folder.summary(shard).name}, then `tunestudy fetch STUDY`"
        raise StudyError(where, f"is damaged; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    return [decode(line) for line in data.decode().splitlines()]


class Journal:
    """Outcomes of a shard under way, appended and flushed to the disk in batches."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: AppendedFile | None = None
        self._waiting: list[str] = []

    def add(self, key: Key, outcome: Outcome) -> None:
        """Remember an outcome for the next `flush`."""
        self._waiting.append(json.dumps({**outcome.as_dict(), "expected": key[1]}) + "\n")

    def flush(self) -> None:
        """Write what was added. Raises OSError."""
        if not self._waiting:
            return
        if self._file is None:
            self._file = self._opened()
        written = len(self._waiting)
        self._file.append("".join(self._waiting[:written]).encode())
        self._file.sync()
        del self._waiting[:written]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> AppendedFile:
        """The file, ended by a line break: a torn last line must not swallow the next."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        file = AppendedFile(self._path)
        if torn:
            file.append(b"\n")
        return file


def read_journal(path: Path) -> Iterator[tuple[Key, Outcome]]:
    """Every whole line of a journal."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            expected = entry.pop("expected")
            outcome = Outcome(**entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # torn by a kill: that image is fetched again
        yield (outcome.url, expected), outcome


class Redacted:
    """URLs as they may be written: without credentials and tokens."""

    def __init__(self) -> None:
        self._redact: Any = redactor()

    def __call__(self, url: str) -> str:
        return str(self._redact(url))

"""Images by their content: a file per SHA-256, its bytes as they came. Any number of processes may write at once."""

import hashlib
import re
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records import clock
from tunestudy.records.atomic import TEMPORARY, replace_bytes

_HEX_64 = re.compile("[0-9a-f]{64}")

LITTER_AGE_S = 3600.0
"""A temporary file of that age has no writer any more."""


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 as files are named here."""
    return _HEX_64.fullmatch(text) is not None


class ImageStore:
    """`<root>/<first 2 digits>/<all 64 digits>`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, sha256: str) -> Path:
        """Where an image lies, or would."""
        assert is_sha256(sha256), f"not a SHA-256: {sha256}"
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return is_sha256(sha256) and self.path(sha256).is_file()

    def put(self, data: bytes) -> str:
        """Keep `data`; its SHA-256 in hex. Raises OSError when the disk cannot take it: nothing half-written is left.

        Not flushed to the disk one by one, which would be slower than the network; `read` notices what a power
        failure took, and a shard is complete only when all its images have their sizes.
        """
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if self.size(digest) == len(data):
            return digest
        replace_bytes(path, data)
        return digest

    def keep(self, data: bytes) -> str:
        """Like `put`, but writes again what is there and damaged."""
        digest = hashlib.sha256(data).hexdigest()
        if self.get(digest) is None:
            self.path(digest).unlink(missing_ok=True)
        return self.put(data)

    def size(self, sha256: str) -> int | None:
        """Bytes of an image; None when it is not there."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> bytes:
        """The image's bytes. Raises StudyError when they are gone or are not what they were."""
        data = self.get(sha256)
        if data is None:
            cure = "delete it, and `tunestudy fetch STUDY --retry-failed` brings it again"
            where = f"images/{sha256[:2]}/{sha256}"
            raise StudyError(where, f"is gone or damaged; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
        return data

    def get(self, sha256: str) -> bytes | None:
        """The image's bytes; None when they are gone or are not what they were."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def sweep(self) -> None:
        """Delete what killed writers left. Safe beside living ones, whose files are young."""
        oldest = clock.now(self.root) - LITTER_AGE_S
        for litter in self.root.glob(f"*/{TEMPORARY}*"):
            try:
                if litter.stat().st_mtime < oldest:
                    litter.unlink()
            except FileNotFoundError:
                continue  # its writer was alive after all, or another sweep was faster

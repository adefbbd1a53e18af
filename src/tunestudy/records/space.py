"""What is told when a disk is full: where, how much is wanted, how much there is."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunestudy.records.atomic import is_disk_full


class NoSpaceError(OSError):
    """The disk or the quota is full, whoever noticed."""

    def __init__(self, what: str, folder: Path, needed_bytes: int | None, error: BaseException) -> None:
        """what: `to publish the result`; needed_bytes: about as many, where that is known."""
        wanted = "" if needed_bytes is None else f"about {bytes_text(needed_bytes)} needed, "
        self.words = f"no space left {what} in {folder}: {wanted}{free_text(folder)} ({error})"
        super().__init__(errno.ENOSPC, self.words)

    def __str__(self) -> str:
        return self.words


@contextlib.contextmanager
def space(what: str, folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """What libraries raise about a full disk becomes one NoSpaceError, which tells what is free after tidying up."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NoSpaceError) or not is_disk_full(error):
            raise
        raise NoSpaceError(what, folder, needed_bytes, error) from error


def free_text(folder: Path) -> str:
    """`1.5 MB free`, of the file system that `folder` lies on or will lie on."""
    try:
        present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return f"{bytes_text(shutil.disk_usage(present).free)} free"
    except OSError:
        return "nothing can be told of what is free"


def bytes_text(size: int) -> str:
    """`512 B`, `1.2 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"

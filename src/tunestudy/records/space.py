"""What is told when a disk is full: where, how much is wanted, how much there is."""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tunestudy.records.atomic import TEMPORARY, is_disk_full

_HARDLY_BYTES = 64 * 1024
"""A few blocks, which files of some lines need each."""


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


@contextlib.contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """Around what goes on without `path` should that find no room: a log's last block often has some for the words."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        print(f"{path} could not be written: {error.strerror}", file=sys.stderr, flush=True)


def told_of(error: OSError, root: Path) -> str:
    """`jobs/base-…/job.json: No space left on device`: the file as seen from `root`, where the error names one.

    Of a file that was on its way to another name, the folder.
    """
    why = error.strerror or str(error)
    if not isinstance(error.filename, str):
        return why
    path = Path(error.filename)
    path = path.parent if path.name.startswith(TEMPORARY) else path
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return why if path == root else f"{inside.as_posix()}: {why}"


def free_text(folder: Path) -> str:
    """`1.5 MB free`, of the file system that `folder` lies on or will lie on; and where no more files fit, that."""
    try:
        present = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        files = ", but no inodes for more files" if _has_no_inodes(present) else ""
        return f"{bytes_text(shutil.disk_usage(present).free)} free{files}"
    except OSError:
        return "nothing can be told of what is free"


def is_full(folder: Path) -> bool:
    """Whether hardly anything can be written any more, even words about it."""
    try:
        return shutil.disk_usage(folder).free < _HARDLY_BYTES or _has_no_inodes(folder)
    except OSError:
        return False


def _has_no_inodes(folder: Path) -> bool:
    """File systems that make them as needed (btrfs) count none at all."""
    facts = os.statvfs(folder)
    return facts.f_files > 0 and facts.f_favail == 0


def bytes_text(size: int) -> str:
    """`512 B`, `1.2 MB`."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"

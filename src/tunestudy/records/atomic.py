"""Writing files so that a reader sees the old content or the new, never half, whatever is killed when.

Each durable step is announced by `sys.audit` ("tunestudy.fsync", "tunestudy.append", "tunestudy.prune",
"tunestudy.publish"); renames are announced by Python itself ("os.rename"). The kill tests listen there.
"""

import errno
import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError

TEMPORARY = ".tmp-"
TRASH = ".trash-"
_PART_BYTES = 2**16


def temporary_beside(path: Path) -> Path:
    """A fresh hidden name in the same folder, so that the final rename stays on one file system."""
    return path.parent / f"{TEMPORARY}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"


class DamagedFileError(StudyError, ValueError):
    """A file of ours that is not as it was written: written whole or not at all, it was changed by someone else."""

    def __init__(self, path: Path, error: ValueError) -> None:
        where = "/".join(path.parts[-3:])
        cure = "delete it and run again: what it told is found or made anew"
        super().__init__(where, f"is damaged, no JSON any more ({error}); {cure}", exit_code=Exit.PREFLIGHT_REFUSED)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that the disk or the quota is full: three libraries say it in three ways."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(words in str(error) for words in ("No space left on device", "Disk quota exceeded", "unexpected pos"))


def fsync_file(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    sys.audit("tunestudy.fsync", str(path))
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically and durably; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            sys.audit("tunestudy.fsync", str(path))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_it(error, path)
        raise
    fsync_file(path.parent)


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` atomically, without waiting for the disk: for what is written again when it is lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_it(error, path)
        raise


def _name_it(error: BaseException, path: Path) -> None:
    """A full disk names no file, and the temporary one says nothing to anyone."""
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = str(path)


def overwrite(path: Path, data: bytes) -> None:
    """Put `data` where a small file has its bytes, which needs no room on most file systems that are full.

    Neither atomic nor durable: for what readers take as absent when it is torn.
    """
    with open(path, "r+b", buffering=0) as file:
        file.write(data)
        file.truncate(len(data))


def write_text(path: Path, text: str) -> None:
    """`write_bytes` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of readable JSON; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in `path`, or None when there is no such file. DamagedFileError for one that holds something else."""
    try:
        return json.loads(_content(path).decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise DamagedFileError(Path(path), ValueError("a folder has its name")) from None
    except ValueError as error:
        raise DamagedFileError(Path(path), error) from None


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in a file; empty when there is none."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}  # torn or unreadable: what it should prove is not proven
    return value if isinstance(value, dict) else {}


def _content(path: str | os.PathLike[str]) -> bytes:
    """Of a small file, without what `open` builds around it: `status` reads ten thousand."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, _PART_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def publish(prepared: Path, final: Path) -> None:
    """Rename a finished folder into place; an older one of that name is moved aside first and then deleted."""
    sys.audit("tunestudy.publish", str(final))
    if final.exists():
        trash = final.parent / f"{TRASH}{final.name}-{secrets.token_hex(4)}"
        os.rename(final, trash)
        os.rename(prepared, final)
        shutil.rmtree(trash)
    else:
        os.rename(prepared, final)
    fsync_file(final.parent)


def remove_tree(path: Path) -> None:
    """Delete a folder so that a kill half-way leaves only hidden litter, never a half-deleted folder."""
    sys.audit("tunestudy.prune", str(path))
    trash = path.parent / f"{TRASH}{path.name}-{secrets.token_hex(4)}"
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash)


def sweep(folder: Path) -> None:
    """Delete litter of earlier, killed writers. Only for the one process that owns `folder`."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.startswith((TEMPORARY, TRASH)):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)


def point_to(link: Path, target: str) -> None:
    """Make `link` name `target`: a relative symlink, or a text file where the file system has no links."""
    temporary = temporary_beside(link)
    try:
        os.symlink(target, temporary)
    except FileNotFoundError:
        raise  # the folder is gone, which says nothing of links
    except OSError:
        write_text(link, target + "\n")
        return
    os.replace(temporary, link)


def pointed_to(link: Path) -> Path | None:
    """What `point_to` made `link` name, or None if nothing or something that is gone."""
    if link.is_symlink():
        target = link.parent / os.readlink(link)
    elif link.is_file():
        target = link.parent / link.read_text(encoding="utf-8").strip()
    else:
        return None
    return target if target.exists() else None

"""Files of a locked commit into the hub's own cache: those that are missing or damaged, each verified after.

A large file goes on where an earlier attempt, or an earlier process that was killed, left off: it grows beside its
place in the cache, which it takes once its SHA-256 is right. `huggingface_hub` itself starts each file anew.
"""

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # made public lazily

from tunestudy.config.errors import Exit, StudyError
from tunestudy.data.hub.client import Hub
from tunestudy.records.hashes import sha256
from tunestudy.records.locked import Item, LockedFile, Problem

LARGE_BYTES = 16 * 2**20
PART = ".tunestudy-part"
TRIES = 2
"""Downloads of a file whose content is not what the hub listed, before it is given up."""


def bring(problem: Problem, cache: Path, hub: Hub) -> None:
    """One file. StudyError when it does not come, or not as the hub listed it."""
    item, name = problem.item, problem.file
    file, place = item.files[name], item.folder(cache) / name
    for _ in range(TRIES):
        if place.exists() or place.is_symlink():
            _forget(place)
        with hub.plainly(item):
            if file.sha256 and LARGE_BYTES <= file.size <= constants.MAX_HTTP_DOWNLOAD_SIZE:
                hub.patiently(lambda: _large(item, name, file, cache))
            hub.patiently(
                lambda: hf_hub_download(
                    item.id, name, revision=item.commit, repo_type=item.kind, cache_dir=cache, library_name="tunestudy"
                )
            )
        if file.holds(place):
            return
    _forget(place)
    told = f"{name} came twice with another content than the hub listed; nothing of it is kept"
    raise StudyError(str(item), f"{told}: `{hub.again}` tries again", exit_code=Exit.PREFLIGHT_REFUSED)


def left_to_bring(found: Sequence[Problem], cache: Path) -> int:
    """Bytes that are still to come, without those of files that are partly here."""
    return sum(max(0, one.item.files[one.file].size - _partly(one, cache)) for one in found)


def _partly(problem: Problem, cache: Path) -> int:
    """Bytes of a file that are here without being in their place: broken off, or of another commit."""
    file = problem.item.files[problem.file]
    blobs = _part(problem.item, file, cache).parent
    blob = blobs / str(file.sha256 or file.git_sha1)
    place = problem.item.folder(cache) / problem.file
    if not place.exists() and blob.exists() and blob.stat().st_size == file.size:
        return file.size
    part = _part(problem.item, file, cache)
    return part.stat().st_size if file.sha256 and part.exists() else 0


def _large(item: Item, name: str, file: LockedFile, cache: Path) -> None:
    """Put a large file among the cache's blobs, from where an earlier attempt left off."""
    part = _part(item, file, cache)
    blob = part.with_name(str(file.sha256))
    if blob.exists():
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(item.id, name, repo_type=item.kind, revision=item.commit)
    headers = build_hf_headers(library_name="tunestudy")
    meta = get_hf_file_metadata(url, headers=headers)
    if urlsplit(meta.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the address is signed, and belongs to someone else
    with open(part, "ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)  # another fetch may be at it; then it is there once the lock is free
        if blob.exists():
            return
        out.seek(0, os.SEEK_END)  # the other one may have made it longer while this one waited
        if out.tell() > file.size:
            out.seek(0)
            out.truncate()
        if out.tell() < file.size:
            http_get(meta.location, out, resume_size=out.tell(), headers=headers, expected_size=file.size)
        out.flush()
        os.fsync(out.fileno())
    if sha256(part) == file.sha256:
        os.replace(part, blob)
    else:
        part.unlink()  # `bring` sees that nothing is there, and tries once more


def _part(item: Item, file: LockedFile, cache: Path) -> Path:
    return item.folder(cache).parent.parent / "blobs" / f"{file.sha256}{PART}"


def _forget(place: Path) -> None:
    """Remove a damaged file and the blob that its link leads to: the cache would take both for good ones."""
    blob = place.resolve()
    with contextlib.suppress(FileNotFoundError):
        blob.unlink()
    with contextlib.suppress(FileNotFoundError):
        place.unlink()


def quiet_bars() -> None:
    """No bar per file where nobody looks."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    constants.HF_HUB_DISABLE_PROGRESS_BARS = True

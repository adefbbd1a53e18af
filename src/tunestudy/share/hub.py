"""The hub as pushing needs it: one commit with what differs, then what is there compared with what was sent.

The client (huggingface_hub) tries uploads of large files again by itself, but not the commit; a push that failed is
therefore tried again as a whole, and the hub takes no byte twice that it has.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.hashes import sha256
from tunestudy.records.redact import redact
from tunestudy.share.content import Files

OFFICIAL = "https://huggingface.co"
ANSWER_S = 120.0
"""A hub that sends and takes nothing for so long counts as lost."""
DOWNLOADED_BYTES = 64 << 20
"""Files up to this size are downloaded to be compared; of larger ones the hub's own SHA-256 is."""
LOGIN = "`hf auth login`, or HF_TOKEN in the environment"
PASSING = (408, 412, 429, 500, 502, 503, 504)
"""Answers that another attempt may not get."""
_NETWORK = {"TransportError", "TimeoutException", "ConnectionError", "RequestException"}
"""Errors of the client's HTTP library, which changed between its versions."""

_AROUND = (RuntimeError, ValueError)
"""What the client raises around the error itself: of an upload, and of a download that must not come from a cache."""


class PassingError(Exception):
    """The hub or the way to it is out of order; another attempt may succeed. `wait_s`: what the hub asked for."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        self.wait_s = wait_s
        super().__init__(message)


class RefusedError(Exception):
    """The hub will not take it until a person changes something; the text says what."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A push that has been compared."""

    repo: str
    commit: str
    url: str
    changed: int
    """Files that differed; 0: there was nothing to commit."""
    downloaded: int
    """Files that were downloaded and compared; of all others the hub's SHA-256 was."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to push."""

    repo: str
    private: bool | None = None
    revision: str | None = None


class Hub:
    """The hub at HF_ENDPOINT, with the token of the environment or of `hf auth login`. Raises StudyError without
    the client."""

    def __init__(self, *, answer_s: float = ANSWER_S) -> None:
        official = os.environ.get("HF_ENDPOINT", OFFICIAL).rstrip("/") == OFFICIAL
        if not official:  # other servers speak the older protocol of large files only
            os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        try:
            from huggingface_hub import HfApi, get_session
        except ImportError as error:
            cure = "needs huggingface_hub: pip install 'tunestudy[train]'"
            raise StudyError("push", cure, exit_code=Exit.PREFLIGHT_REFUSED) from error
        get_session().timeout = answer_s  # by default it waits for ever
        self.api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="tunestudy")

    def full_name(self, repo: str) -> str:
        """With the token's user in front, where it has no owner. Raises PassingError, RefusedError."""
        if "/" in repo:
            return repo
        try:
            return f"{self.api.whoami()['name']}/{repo}"
        except Exception as error:
            raise told(error, repo) from error

    def push(self, place: Place, files: Files, message: str, *, gone: Iterable[str] = (), download: int) -> Pushed:
        """Make the repository if it is missing, commit what differs, and compare.

        gone: files to delete. download: size up to which files are downloaded to compare them.
        Raises PassingError and RefusedError.
        """
        try:
            return self._push(place, files, message, gone=gone, download=download)
        except (PassingError, RefusedError):
            raise
        except Exception as error:
            raise told(error, place.repo) from error

    def _push(self, place: Place, files: Files, message: str, *, gone: Iterable[str], download: int) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        self.api.create_repo(place.repo, private=place.private, exist_ok=True)
        if place.revision is not None:
            self.api.create_branch(place.repo, branch=place.revision, exist_ok=True)
        there = self._tree(place.repo, place.revision)
        new = {name: path for name, path in files.items() if not _same(there.get(name), path)}
        operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in new.items()]
        operations += [CommitOperationDelete(name) for name in gone if name in there]
        if operations:
            made = self.api.create_commit(place.repo, operations, commit_message=message, revision=place.revision)
            commit = str(made.oid)
        else:
            commit = str(self.api.model_info(place.repo, revision=place.revision).sha)
        downloaded = self.compare(place.repo, commit, files, download)
        url = f"{self.api.endpoint}/{place.repo}"
        return Pushed(repo=place.repo, commit=commit, url=url, changed=len(operations), downloaded=downloaded)

    def compare(self, repo: str, commit: str, files: Mapping[str, Path], download: int) -> int:
        """Compare what the hub holds at a commit with the files here; returns how many were downloaded for it.

        PassingError for content that differs: another attempt sends it again.
        """
        there = self._tree(repo, commit)
        if wrong := [name for name, path in files.items() if not _same(there.get(name), path)]:
            raise PassingError(f"{repo} does not hold what was sent: {', '.join(wrong[:3])}")
        small = [name for name, path in files.items() if path.stat().st_size <= download]
        for name in small:
            with TemporaryDirectory() as folder:
                came = self.api.hf_hub_download(repo, name, revision=commit, local_dir=folder, force_download=True)
                if sha256(Path(came)) != sha256(files[name]):
                    raise PassingError(f"{repo} gives other content back than was sent: {name}")
        return len(small)

    def _tree(self, repo: str, revision: str | None) -> dict[str, Any]:
        listed = self.api.list_repo_tree(repo, recursive=True, revision=revision)
        return {entry.path: entry for entry in listed if hasattr(entry, "blob_id")}

    def licence_of(self, model: str, revision: str | None) -> str | None:
        """The licence that a model's card names; None where it names none or cannot be asked."""
        try:
            card = self.api.model_info(model, revision=revision).card_data
        except Exception as error:
            if isinstance(told(error, model), RefusedError | PassingError):
                return None
            raise
        found = None if card is None else card.get("license")
        return found if isinstance(found, str) else None


@lru_cache(maxsize=1024)
def _sha256(path: Path, _changed_at: int) -> str:
    """Of a file of gigabytes once, not at each of the three times that it is asked for."""
    return sha256(path)


def _same(entry: Any, path: Path) -> bool:
    """Whether the hub's entry has this file's content: by SHA-256 of large files, by git's hash of others."""
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == _sha256(path, path.stat().st_mtime_ns))
    content = path.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def told(error: Exception, repo: str) -> Exception:
    """An error of the client as PassingError or RefusedError with a plain text; itself where it is neither."""
    if type(error) in _AROUND and isinstance(error.__cause__, Exception):
        return told(error.__cause__, repo)
    status = getattr(getattr(error, "response", None), "status_code", None)
    names = {one.__name__ for one in type(error).__mro__}
    said = redact(_first_line(error))
    if "OfflineModeIsEnabled" in names:
        return RefusedError("HF_HUB_OFFLINE is set, so the hub is not asked; unset it to push")
    if names & {"LocalTokenNotFoundError", "LoginError"} or status == 401:
        return RefusedError(f"the hub takes no token from here ({status or 'there is none'}): {LOGIN}")
    if status in (402, 413, 507) or (status == 403 and re.search("(?i)quota|storage|limit", said)):
        return RefusedError(f"the hub has no room for {repo} ({status}): {said}; free some, or push elsewhere")
    if status == 403:
        return RefusedError(f"the token may not write to {repo} (403): {LOGIN} with one that may")
    if status in PASSING:
        asked = str(error.response.headers.get("Retry-After", ""))  # type: ignore[attr-defined]
        return PassingError(f"the hub answered {status}", float(asked) if asked.isdigit() else 0.0)
    if status is not None or "HFValidationError" in names:
        return RefusedError(f"the hub refuses {repo} ({status or 'name'}): {said}")
    if isinstance(error, ConnectionError | TimeoutError) or names & _NETWORK:
        return PassingError(f"the hub cannot be reached ({type(error).__name__}: {said})")
    return error


def _first_line(error: Exception) -> str:
    message = getattr(error, "server_message", None) or str(error)
    return (str(message).strip().splitlines() or [type(error).__name__])[0]

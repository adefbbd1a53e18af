"""The hub, asked patiently: what a repository holds at a commit, and plain words for every way it can refuse."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.locked import LockedFile, Named

ATTEMPTS = 6
LONGEST_WAIT_S = 60.0
PASSING = (408, 429, 500, 502, 503, 504)
"""Answers that another attempt may not get."""
LOGIN = "`hf auth login`, or HF_TOKEN in the environment"


@dataclass(frozen=True)
class Hub:
    """The hub at HF_ENDPOINT."""

    again: str
    """The command that goes on."""
    backoff_s: float = 1.0
    """Pause before the second attempt; it doubles each time, unless the hub says how long."""
    stopped: Callable[[], bool] = lambda: False

    @property
    def api(self) -> HfApi:
        return HfApi(library_name="tunestudy")

    def commit_of(self, named: Named) -> str:
        """The commit that the revision means now. Raises StudyError."""
        ask = self.api.model_info if named.kind == "model" else self.api.dataset_info
        with self.plainly(named):
            info = self.patiently(lambda: ask(named.id, revision=named.revision))
        return str(info.sha)

    def files_at(self, named: Named, commit: str) -> dict[str, LockedFile]:
        """Every file of the repository at a commit. Raises StudyError."""
        with self.plainly(named):
            tree = self.patiently(
                lambda: list(self.api.list_repo_tree(named.id, recursive=True, revision=commit, repo_type=named.kind))
            )
        return {entry.path: _file(entry) for entry in tree if hasattr(entry, "blob_id")}

    def text(self, named: Named, commit: str, name: str) -> str:
        """A small file's text; it leaves nothing in the cache."""
        with TemporaryDirectory() as folder, self.plainly(named):
            path = self.patiently(
                lambda: self.api.hf_hub_download(
                    named.id, name, revision=commit, repo_type=named.kind, local_dir=folder
                )
            )
            return Path(path).read_text(encoding="utf-8", errors="replace")

    def patiently(self, ask: Callable[[], Any]) -> Any:
        """What `ask` gives; asked again after a failure that may pass, with a pause that doubles."""
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except Exception as error:
                if attempt + 1 == ATTEMPTS or not may_pass(error) or self.stopped():
                    raise
                time.sleep(self._pause(error, attempt))
        raise AssertionError("unreachable")

    def _pause(self, error: Exception, attempt: int) -> float:
        told = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
        wished = float(told) if str(told).isdigit() else 0.0
        return min(LONGEST_WAIT_S, max(wished, self.backoff_s * float(2**attempt)))

    @contextmanager
    def plainly(self, named: Named) -> Iterator[None]:
        """Refusals of the hub as StudyError."""
        try:
            yield
        except OfflineModeIsEnabled:
            _refuse(named, "HF_HUB_OFFLINE is set, so the hub is not asked; unset it to fetch")
        except GatedRepoError:
            page = f"{constants.ENDPOINT}/{'datasets/' if named.kind == 'dataset' else ''}{named.id}"
            _refuse(named, f"is gated: accept its conditions at {page}, then log in with that account: {LOGIN}")
        except RevisionNotFoundError:
            _refuse(named, f"has no revision `{named.revision}`{self._revisions(named)}", Exit.STUDY_WRONG)
        except RepositoryNotFoundError:
            private = f"if it is private, a token of someone who may read it is needed: {LOGIN}"
            _refuse(named, f"the hub shows no such {named.kind}{self._nearest(named)}; {private}", Exit.STUDY_WRONG)
        except HFValidationError as error:
            _refuse(named, f"is no name of a repository: {error}", Exit.STUDY_WRONG)
        except HfHubHTTPError as error:
            _refuse(named, self._answered(error))
        except Exception as error:
            if not may_pass(error):
                raise
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            _refuse(
                named, f"{constants.ENDPOINT} cannot be reached ({told}); what came is kept, `{self.again}` goes on"
            )

    def _answered(self, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        if status == 401:
            return f"the hub refuses the token (401): {LOGIN}"
        if status == 403:
            return f"the token may not read it (403): {LOGIN} with one that may"
        times = f" after {ATTEMPTS} attempts" if status in PASSING else ""
        return f"the hub answered {status}{times}; what came is kept, `{self.again}` goes on"

    def _revisions(self, named: Named) -> str:
        """Names that would have worked; none where even asking for them fails."""
        try:
            refs = self.api.list_repo_refs(named.id, repo_type=named.kind)
        except (OSError, HfHubHTTPError):
            return ""
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        near = get_close_matches(str(named.revision), names, 1)
        return f"; did you mean `{near[0]}`?" if near else f"; it has {', '.join(names[:5])}"

    def _nearest(self, named: Named) -> str:
        """The most similar repository of the same owner."""
        listed = self.api.list_models if named.kind == "model" else self.api.list_datasets
        try:
            names = [one.id for one in listed(author=named.id.partition("/")[0], limit=200)]
        except (OSError, HfHubHTTPError):
            return ""
        near = get_close_matches(named.id, names, 1)
        return f" (the nearest is `{near[0]}`)" if near else ""


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: a busy hub, a connection that broke."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in PASSING
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return True  # the connection ended early and in good order
    # The client's library was changed between versions of huggingface_hub, and each has errors of its own.
    names = {one.__name__ for one in type(error).__mro__}
    return bool(
        names
        & {"TransportError", "TimeoutException", "ConnectionError", "IncompleteSnapshotError", "FileMetadataError"}
    )


def _file(entry: Any) -> LockedFile:
    lfs = entry.lfs
    sha = None if lfs is None else str(lfs.sha256)
    return LockedFile(int(entry.size), sha256=sha, git_sha1=None if sha else str(entry.blob_id))


def _refuse(named: Named, why: str, code: Exit = Exit.PREFLIGHT_REFUSED) -> NoReturn:
    raise StudyError(str(named), why, exit_code=code) from None

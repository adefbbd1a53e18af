"""`<study>.lock` beside the study file: what of the hub a study reads, at which commit, file by file.

    {"version": 1, "study": "demo", "items": [
      {"kind": "model", "id": "Qwen/Qwen3-0.6B", "revision": null, "parts": ["tokenizer", "weights"],
       "commit": "c1899de2…", "locked": "2026-01-05T09:30:00Z",
       "files": {
        "config.json": {"size": 726, "git_sha1": "…"},
        "model.safetensors": {"size": 1503300328, "sha256": "…"}}}],
     "images": {"pool": {"key": "…", "shards": ["…"]}},
     "tasks": {"arc_easy": {"harness": "0.4.13", "reads": [["allenai/ai2_arc", "ARC-Easy", null]], "why": null,
      "metrics": []}}}

`tunestudy fetch` writes it, people commit it to git, `results/<study>/study.lock` is a copy for whoever has the results
alone. Large files have their SHA-256, small ones the hash that git knows them by: what the hub tells of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.atomic import write_text
from tunestudy.records.hashes import git_sha1, sha256
from tunestudy.records.hub_cache import FOLDERS, snapshot_folder

VERSION = 1
SUFFIX = ".lock"


@dataclass(frozen=True)
class Named:
    """A repository of the hub as a study names it."""

    kind: str
    """`model` or `dataset`."""
    id: str
    revision: str | None
    """As asked for: a branch, a tag, a commit; None: the repository's main branch."""
    parts: tuple[str, ...]
    """What of it is read. Of a model `weights`, `tokenizer`, `code`, or `vae/` for a folder inside it; of a data set
    its subsets, `default` for the one it has by itself, or files by a pattern such as `*.parquet`."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.id, self.revision or ""

    def __str__(self) -> str:
        return self.id + (f" @ {self.revision}" if self.revision else "")


@dataclass(frozen=True)
class LockedFile:
    """A file's size in bytes, and one of two hashes."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def holds(self, path: Path) -> bool:
        """Whether the file there has these very bytes."""
        if path.stat().st_size != self.size:
            return False
        return sha256(path) == self.sha256 if self.sha256 else git_sha1(path) == self.git_sha1

    def as_json(self) -> dict[str, Any]:
        return {"size": self.size, **({"sha256": self.sha256} if self.sha256 else {"git_sha1": self.git_sha1})}


@dataclass(frozen=True)
class Item(Named):
    """A repository at one commit, with the files that the study needs of it."""

    commit: str
    locked: str
    """When the commit was chosen, UTC."""
    files: Mapping[str, LockedFile]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())

    def folder(self, cache: Path) -> Path:
        """Where the hub's cache keeps the files of this commit."""
        return snapshot_folder(cache, self.kind, self.id, self.commit)

    def as_json(self) -> dict[str, Any]:
        files = {name: self.files[name].as_json() for name in sorted(self.files)}
        names = ("kind", "id", "revision", "parts", "commit", "locked")
        return {**{name: getattr(self, name) for name in names}, "files": files}


@dataclass(frozen=True)
class Lock:
    """The content of a lock."""

    study: str
    items: tuple[Item, ...] = ()
    images: Mapping[str, Any] = field(default_factory=dict)
    """By data set: the folder of its manifests (`records/fetched.py`), and the digest of each shard's images."""
    tasks: Mapping[str, Any] = field(default_factory=dict)
    """By name of a task of lm-evaluation-harness: what `bench/lm_eval_data.py` found that it reads."""

    def find(self, named: Named) -> Item | None:
        """The entry of a repository; it may hold fewer parts than are needed."""
        return next((item for item in self.items if item.key == named.key), None)

    def covers(self, named: Named) -> bool:
        """Whether everything that is needed of a repository is locked."""
        item = self.find(named)
        return item is not None and set(named.parts) <= set(item.parts)

    def with_items(self, items: Iterable[Item]) -> "Lock":
        """The same with these entries, in a stable order, in place of those of the same repositories and revisions."""
        kept = {item.key: item for item in (*self.items, *items)}
        return replace(self, items=tuple(kept[key] for key in sorted(kept)))


@dataclass(frozen=True)
class Problem:
    """A file of a locked commit that this machine has not, or not as it was."""

    item: Item
    file: str
    what: str
    """`missing`, `has 10 bytes in place of 20`, or `has another content`."""

    def __str__(self) -> str:
        return f"{self.item.id}: {self.file} {self.what}"


def lock_beside(study_file: Path, study: str) -> Path:
    """The lock of a study file. It is named by the study, so that its small form has one of its own."""
    return study_file.parent / f"{study}{SUFFIX}"


def read_lock(path: Path) -> Lock | None:
    """The lock, None where there is none. StudyError for a file that is no lock, such as one with a git conflict."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StudyError(str(path), f"cannot be read: {error.strerror}", exit_code=Exit.PREFLIGHT_REFUSED) from None
    except ValueError as error:
        raise _no_lock(path, f"no JSON: {error}") from None
    try:
        if found["version"] != VERSION:
            raise _no_lock(path, f"of version {found['version']}, and this tunestudy knows {VERSION}")
        items = tuple(_item(one) for one in found["items"])
        return Lock(str(found["study"]), items, dict(found.get("images") or {}), dict(found.get("tasks") or {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_lock(path, f"an entry is not as it was written ({error!r})") from None


def write_lock(path: Path, lock: Lock) -> bool:
    """Replace the lock atomically; False where it says the same already, and nothing was touched."""
    text = lock_text(lock)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def lock_text(lock: Lock) -> str:
    """JSON with a line per file: what changes shows up in a diff line by line."""
    items = ",\n".join(_item_text(item) for item in lock.items)
    images = json.dumps({name: lock.images[name] for name in sorted(lock.images)}, indent=1)
    return (
        f'{{\n"version": {VERSION},\n"study": {json.dumps(lock.study)},\n'
        f'"items": [{chr(10) if items else ""}{items}],\n"images": {images}{_tasks_text(lock)}\n}}\n'
    )


def problems(lock: Lock, cache: Path, named: Sequence[Named] | None = None, *, hashes: bool = False) -> list[Problem]:
    """Every locked file that is not in the hub's cache as it should be; by size, or with `hashes` by content as well.

    `named`: only the entries of these repositories. Reads nothing but sizes unless asked to, and imports nothing.
    """
    wanted = None if named is None else {one.key for one in named}
    items = [item for item in lock.items if wanted is None or item.key in wanted]
    return [problem for item in items for problem in item_problems(item, cache, hashes=hashes)]


def item_problems(item: Item, cache: Path, *, hashes: bool = False) -> Iterator[Problem]:
    """Those of one repository."""
    folder = item.folder(cache)
    for name, file in item.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            yield Problem(item, name, "is missing")
            continue
        if size != file.size:
            yield Problem(item, name, f"has {size:,} bytes in place of {file.size:,}")
        elif hashes and not file.holds(path):
            yield Problem(item, name, "has another content than the hub told")


def _item(found: Mapping[str, Any]) -> Item:
    files = {str(name): LockedFile(**file) for name, file in found["files"].items()}
    parts = tuple(str(part) for part in found["parts"])
    kind, commit = str(found["kind"]), str(found["commit"])
    if kind not in FOLDERS or not files or ".." in commit or any(".." in Path(name).parts for name in files):
        raise ValueError(f"{kind} {found['id']}")
    return Item(kind, str(found["id"]), found["revision"], parts, commit, str(found["locked"]), files)


def _item_text(item: Item) -> str:
    told = item.as_json()
    files = told.pop("files")
    head = json.dumps(told)[:-1]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(file)}" for name, file in files.items())
    return f' {head},\n  "files": {{\n{lines}}}}}'


def _tasks_text(lock: Lock) -> str:
    """A line per task; nothing where there are none, as in older locks."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(lock.tasks[name])}" for name in sorted(lock.tasks))
    return f',\n"tasks": {{\n{lines}}}' if lines else ""


def _no_lock(path: Path, why: str) -> StudyError:
    cure = "take it from git again, or delete it and `tunestudy fetch` to lock what the hub has now"
    return StudyError(str(path), f"is no lock: {why}; {cure}")

"""What there is to push, by the files alone, and pushing one of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from tunestudy.config.job import Job
from tunestudy.config.sharing import Strategy
from tunestudy.records.atomic import read_json
from tunestudy.records.hashes import sha256
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.manifest import MANIFEST, problems
from tunestudy.records.pushes import MODEL, forget, note_pushed, read_pushed, take, taken, waiting
from tunestudy.share.content import CARD, Files, left_over, no_longer, of_checkpoint, of_model
from tunestudy.share.hub import DOWNLOADED_BYTES, Hub, Place, Pushed, RefusedError
from tunestudy.study.sharing import Target
from tunestudy.study.state import job_status

CardOf = Callable[[Hub, Job, str], str]
"""The model card of a job for a repository."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to push."""

    folder: JobDir
    target: Target
    key: str
    """`model`, or a checkpoint's name."""

    def __str__(self) -> str:
        return self.folder.root.name if self.key == MODEL else f"{self.folder.root.name}/{self.key}"


def items(study: StudyDir, targets: Sequence[Target], *, unscored: bool, again: bool = False) -> Iterator[Item]:
    """What waits, checkpoints that were taken before first, a job's result after its checkpoints.

    unscored: also results whose benchmarks are missing. again: also results that are on the hub as they are here,
    whose cards may have changed.
    """
    for target in targets:
        folder = study.job(target.job)
        for name in dict.fromkeys([*taken(folder), *waiting(folder)]):
            yield Item(folder=folder, target=target, key=name)
        if _result_waits(folder, target, unscored=unscored, again=again):
            yield Item(folder=folder, target=target, key=MODEL)


def _result_waits(folder: JobDir, target: Target, *, unscored: bool, again: bool) -> bool:
    if not is_published(folder) or (not again and is_pushed(folder, target)):
        return False
    status = job_status(folder, Job.model_validate(read_json(folder.job_json)))
    return status == "done" or (unscored and status in ("evaluate", "failed", "interrupted"))


def is_published(folder: JobDir) -> bool:
    """Whether the job has weights to push: one that only scored the study's model has none."""
    return folder.result_json.is_file() and (folder.model / MANIFEST).is_file()


def is_pushed(folder: JobDir, target: Target) -> bool:
    """Whether the result lies at its place on the hub as it is here."""
    there = read_pushed(folder).get(MODEL, {})
    same_place = _is_place(str(there.get("repo", "")), target.repo) and there.get("revision") == target.revision
    return same_place and there.get("manifest_sha256") == sha256(folder.model / MANIFEST)


def _is_place(repo: str, wanted: str) -> bool:
    return repo == wanted or ("/" not in wanted and repo.partition("/")[2] == wanted)


def push_item(hub: Hub, item: Item, card_of: CardOf, *, download: int = DOWNLOADED_BYTES) -> Pushed | None:
    """Push one thing and note it; None when a newer checkpoint has just taken its place.

    Raises PassingError, and RefusedError also for a folder that does not hold.
    """
    if item.key == MODEL:
        return _push_model(hub, item, card_of, download)
    path = take(item.folder, item.key)
    if path is None:
        return None
    if wrong := problems(path):
        forget(item.folder, item.key)
        raise RefusedError(f"{item} was damaged while it waited and is left out: {wrong[0]}")
    files = of_checkpoint(path, cast(Strategy, item.target.strategy))
    gone = left_over(_files_there(item, hub.full_name(item.target.repo)), files)
    pushed = _push(hub, item, files, path, f"{item.key} of {item.folder.root.name}", gone, download)
    forget(item.folder, item.key)
    return pushed


def _files_there(item: Item, repo: str) -> Iterator[str]:
    """What has been pushed of this job to the same place."""
    for one in read_pushed(item.folder).values():
        if (one.get("repo"), one.get("revision")) == (repo, item.target.revision):
            yield from one.get("files", {})


def _push_model(hub: Hub, item: Item, card_of: CardOf, download: int) -> Pushed:
    path = item.folder.model
    if wrong := problems(path):
        raise RefusedError(f"{item} is damaged: {wrong[0]}; delete result.json and run again to make it anew")
    repo = hub.full_name(item.target.repo)
    job = Job.model_validate(read_json(item.folder.job_json))
    files = of_model(path)
    with TemporaryDirectory() as folder:
        files[CARD] = Path(folder) / CARD
        files[CARD].write_text(card_of(hub, job, repo), encoding="utf-8")
        before = read_pushed(item.folder).get(MODEL, {})
        gone = no_longer(before.get("files", {}), files) if before.get("repo") == repo else []
        return _push(hub, item, files, path, f"Result of {item.folder.root.name}", gone, download)


def _push(hub: Hub, item: Item, files: Files, source: Path, message: str, gone: Sequence[str], download: int) -> Pushed:
    place = Place(repo=hub.full_name(item.target.repo), private=item.target.private, revision=item.target.revision)
    pushed = hub.push(place, files, message, gone=gone, download=download)
    facts = {
        "repo": pushed.repo,
        "revision": item.target.revision,
        "commit": pushed.commit,
        "url": pushed.url,
        "manifest_sha256": sha256(source / MANIFEST),
        "files": {name: sha256(path) for name, path in files.items()},
        "verified": {"downloaded": pushed.downloaded, "by_hash": len(files) - pushed.downloaded},
    }
    note_pushed(item.folder, item.key, facts)
    return pushed


def targets_as_text(targets: Sequence[Target]) -> str:
    """For the uploader's input."""
    return json.dumps([vars(target) for target in targets])


def targets_from_text(text: str) -> list[Target]:
    return [Target(**one) for one in json.loads(text)]

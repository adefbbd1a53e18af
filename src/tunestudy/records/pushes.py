"""The queue of checkpoints that wait for their upload, in the job's own folder.

A waiting checkpoint is a folder of hard links, so that retention may delete the checkpoint itself and no byte is
copied. The job adds to `waiting/`; the uploader takes from there by a rename to `uploading/` and deletes what is on
the hub. A finished result does not wait here: `model/` stays, and `pushed.json` tells whether it is on the hub.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import fsync_file, publish, read_json, remove_tree, sweep, temporary_beside, write_json
from tunestudy.records.kept import find_checkpoints
from tunestudy.records.layout import JobDir

MODEL = "model"
"""Key of a job's result in pushed.json."""


def enqueue(folder: JobDir, checkpoint: Path, *, keep_older: bool) -> list[str]:
    """Let a sealed checkpoint wait for its upload; returns the names of older ones that made room for it.

    Only for the process that holds the job. OSError where the queue cannot be written.
    """
    queue = folder.waiting_pushes
    queue.mkdir(parents=True, exist_ok=True)
    sweep(queue)
    prepared = temporary_beside(queue / checkpoint.name)
    try:
        shutil.copytree(checkpoint, prepared, copy_function=_link)
        publish(prepared, queue / checkpoint.name)
    except BaseException:
        shutil.rmtree(prepared, ignore_errors=True)
        raise
    older = [] if keep_older else [name for name in waiting(folder) if name != checkpoint.name]
    if older:
        told = read_json(folder.superseded_pushes) or []
        write_json(folder.superseded_pushes, [*told, *older])
    for name in older:
        remove_tree(queue / name)
    return older


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def waiting(folder: JobDir) -> list[str]:
    """Names of checkpoints that wait, by step."""
    return [found.name for found in find_checkpoints(folder.waiting_pushes)]


def taken(folder: JobDir) -> list[str]:
    """Names of those that an uploader has taken and not finished, by step."""
    return [found.name for found in find_checkpoints(folder.current_push)]


def take(folder: JobDir, name: str) -> Path | None:
    """Take a waiting checkpoint for its upload; None when a newer one has just taken its place."""
    target = folder.current_push / name
    if target.is_dir():
        return target
    folder.current_push.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(folder.waiting_pushes / name, target)
    except FileNotFoundError:
        return None
    fsync_file(folder.current_push)
    return target


def forget(folder: JobDir, name: str) -> None:
    """Drop a checkpoint that is on the hub, or that no longer holds."""
    remove_tree(folder.current_push / name)


def read_pushed(folder: JobDir) -> dict[str, Any]:
    """pushed.json; empty when nothing has been pushed."""
    found = read_json(folder.pushed_json)
    return found if isinstance(found, dict) else {}


def note_pushed(folder: JobDir, key: str, facts: dict[str, Any]) -> None:
    """Write down what is on the hub now. Only for the uploader."""
    write_json(folder.pushed_json, {**read_pushed(folder), key: facts})


def num_superseded(folder: JobDir) -> int:
    """Checkpoints that made room for newer ones while they waited."""
    found = read_json(folder.superseded_pushes)
    return len(found) if isinstance(found, list) else 0

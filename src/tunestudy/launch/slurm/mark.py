"""What tells submissions of one results folder from all others: a comment that they carry.

It is kept in the folder itself, so that it is the same by whatever path the folder is mounted or linked, and after it
was moved. A copy of the folder is another one: what the original has in the queue is not the copy's to follow or stop.
"""

import hashlib
import secrets

from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.layout import StudyDir

PREFIX = "tunestudy:"


def mark_of(study: StudyDir) -> str:
    """The folder's comment. Without one of its own, as nothing was submitted yet, one by its path."""
    told = read_object(study.slurm.mark)
    return str(told["mark"]) if _is_of(told, study) else _by_path(study)


def keep_mark(study: StudyDir) -> str:
    """The same, kept for all who come by other paths. Whoever calls it holds the lease of submitting.

    Submissions from before the folder had a mark carry the one by its path: they stay its own.
    """
    if _is_of(told := read_object(study.slurm.mark), study):
        return str(told["mark"])
    before = study.slurm.submissions.is_dir() and not told
    mark = _by_path(study) if before else f"{PREFIX}{secrets.token_hex(6)}"
    study.slurm.root.mkdir(parents=True, exist_ok=True)
    write_json(study.slurm.mark, {"mark": mark, "inode": _inode(study), "path": str(study.root.resolve())})
    return mark


def _is_of(told: dict[str, object], study: StudyDir) -> bool:
    """By the folder's number in its file system, which a copy does not share; where those change, by its path."""
    return "mark" in told and (told.get("inode") == _inode(study) or told.get("path") == str(study.root.resolve()))


def _inode(study: StudyDir) -> int:
    return study.slurm.root.stat().st_ino


def _by_path(study: StudyDir) -> str:
    return f"{PREFIX}{hashlib.sha256(str(study.root.resolve()).encode()).hexdigest()[:12]}"

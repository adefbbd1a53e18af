"""`logs`: what jobs printed, also while they run."""

import os
import stat
import time
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.records.listing import entries
from tunestudy.records.redact import redact

POLL_S = 0.3


def show(study_dir: Path, job_prefix: str | None, follow: bool) -> Exit:
    """Print the logs of the jobs whose id begins with `job_prefix` (of all without one); `follow` until they end.

    Raises StudyError when there is no such job.
    """
    folders = job_folders(study_dir, job_prefix or "")
    reached: dict[Path, int] = {}
    while True:
        running = follow and any(_runs(folder) for folder in folders)
        printed = _printed(study_dir)
        for folder in folders:
            torn = not follow and not _runs(folder)
            for log in (*printed.get(folder.name, ()), *logs_of(folder)):
                title = len(folders) > 1 or log.name != "rank-0.log"
                reached[log] = print_from(log, reached.get(log, 0), title=title, torn=torn)
        if not running:
            return Exit.DONE
        time.sleep(POLL_S)


def job_folders(study_dir: Path, prefix: str) -> list[Path]:
    """Folders of the jobs whose id begins with `prefix`, oldest first."""
    jobs = StudyDir(study_dir).jobs
    dated = [(began, folder) for folder in entries(jobs) if (began := _dated(folder)) is not None]
    everything = [folder for _, folder in sorted(dated)]
    chosen = [folder for folder in everything if folder.name.startswith(prefix)]
    if not chosen:
        known = ", ".join(folder.name for folder in everything[:8]) or "none yet"
        raise StudyError(prefix or study_dir.name, f"no job of that name in {jobs}; there are: {known}")
    return chosen


def logs_of(folder: Path) -> list[Path]:
    """What a job's ranks printed."""
    return [path for path in entries(folder / "logs") if path.suffix == ".log"]


def print_from(log: Path, position: int, *, title: bool, torn: bool) -> int:
    """Print whole lines of `log` from `position` on; returns where to go on. A rewritten log is not repeated.

    `torn`: a last line without an end, too, as it may be all that a killed job came to say.
    """
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size <= position:
                return size
            file.seek(position)
            data = file.read(size - position)
    except FileNotFoundError:  # its job was cleaned away just now
        return position
    if not torn:
        data = data[: data.rfind(b"\n") + 1]
    if data:
        if title:
            print(f"==> {log.parent.parent.name}/{log.name} <==")
        print(redact(data.decode(errors="replace")), end="" if data.endswith(b"\n") else "\n", flush=True)
    return position + len(data)


def _printed(study_dir: Path) -> dict[str, list[Path]]:
    """What submissions to SLURM printed, by the job that each was for."""
    found: dict[str, list[Path]] = {}
    for path in entries(StudyDir(study_dir).slurm.outputs):
        if path.suffix == ".out":
            found.setdefault(path.name.rsplit(".", 2)[0], []).append(path)
    return found


def _dated(folder: Path) -> float | None:
    """When something was last made in a job's folder; None for what is no folder, or none any more."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime if stat.S_ISDIR(found.st_mode) else None


def _runs(folder: Path) -> bool:
    job = StudyDir(folder.parent.parent).job(folder.name)
    return Lease.holder(job.claim) is not None or Lease.holder(job.lease) is not None

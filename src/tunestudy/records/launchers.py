"""Who carries a study out right now, and which of its jobs: every launcher is listed while it lives."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator

from tunestudy.records.atomic import write_text
from tunestudy.records.host import host_name, process_start
from tunestudy.records.layout import LAUNCHER_JOBS, StudyDir
from tunestudy.records.lease import Holder, Lease
from tunestudy.records.listing import entries
from tunestudy.records.space import told_if_full


def writer_name() -> str:
    """A name that no other process ever has: of this launcher's journal and its presence."""
    host = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in host_name())
    return f"{host}-{os.getpid()}-{process_start(os.getpid())}"


@contextlib.contextmanager
def present(study: StudyDir, jobs: Iterable[str] = ()) -> Iterator[None]:
    """Be listed in `launchers` meanwhile with the ids of `jobs`; those that were killed are struck off."""
    for left in entries(study.launchers):
        if Lease.is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = study.launchers / writer_name()
    try:
        with Lease.acquire(folder):
            with told_if_full(folder / LAUNCHER_JOBS):
                write_text(folder / LAUNCHER_JOBS, "".join(f"{job}\n" for job in jobs))
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launchers(study: StudyDir) -> list[Holder]:
    """Every living launcher of the study, on whatever machine."""
    return list(launchers_by_name(study).values())


def launchers_by_name(study: StudyDir) -> dict[str, Holder]:
    """The same by their `writer_name`."""
    found = ((folder.name, Lease.holder(folder)) for folder in entries(study.launchers))
    return {name: holder for name, holder in found if holder is not None}


def jobs_of_launchers(study: StudyDir) -> set[str]:
    """Ids of all jobs that living launchers carry out, done or not."""
    return {job for name in launchers_by_name(study) for job in _listed(study, name)}


def _listed(study: StudyDir, name: str) -> list[str]:
    try:
        return (study.launchers / name / LAUNCHER_JOBS).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []  # it has only begun, or is gone by now

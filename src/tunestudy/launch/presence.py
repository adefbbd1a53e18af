"""Which launchers are carrying out a study right now, and what a further one should know of them."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from tunestudy.preflight.neighbours import MUCH_AHEAD_S, hours_text
from tunestudy.records import clock
from tunestudy.records.host import host_name, process_start
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Holder, Lease


def writer_name() -> str:
    """A name that no other process ever has: of this launcher's journal and its presence."""
    host = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in host_name())
    return f"{host}-{os.getpid()}-{process_start(os.getpid())}"


@contextlib.contextmanager
def present(study: StudyDir) -> Iterator[None]:
    """Be listed in `launchers` meanwhile; those that were killed are struck off."""
    for left in study.launchers.iterdir() if study.launchers.is_dir() else ():
        if Lease.is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = study.launchers / writer_name()
    try:
        with Lease.acquire(folder):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def launchers(study: StudyDir) -> list[Holder]:
    """Every living launcher of the study, on whatever machine."""
    folders = sorted(one for one in study.launchers.iterdir() if one.is_dir()) if study.launchers.is_dir() else []
    return [holder for folder in folders if (holder := Lease.holder(folder))]


def neighbours_in_words(study: StudyDir) -> Iterator[str]:
    """Before a launcher begins: who else carries the study out, and that this machine's clock is wrong."""
    for other in launchers(study):
        yield f"also run as {other}: jobs that it has begun are left to it, and taken over only when it is gone"
    ahead = clock.ahead_s(study.root)
    if abs(ahead) > MUCH_AHEAD_S:
        off = f"{hours_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
        yield f"this machine's clock is {off} the one that dates the results; they tell the latter's time"

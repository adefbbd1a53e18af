"""`stop` for submissions: those that run save and leave, those that wait are cancelled; nobody else's are touched."""

import time

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.slurm.commands import SlurmError, ask, patiently
from tunestudy.launch.slurm.queue import Queued, read_queue, submissions
from tunestudy.launch.slurm.submit import refused
from tunestudy.records.atomic import write_text
from tunestudy.records.layout import StudyDir

POLL_S = 1.0


def stop_submissions(study: StudyDir) -> int:
    """Ask all submissions of this results folder to end and wait until they have; returns how many there were.

    A `run` that follows them, wherever it is, sees the note on disk and sends nothing more.
    """
    if not (submissions(study) or study.slurm.mark.exists()):  # lines of `commands` leave a mark alone
        return 0
    write_text(study.slurm.stopped, "tunestudy stop\n")
    try:
        live = _live(study)
        waiting_first = sorted(live, key=lambda one: not one.is_pending)  # for those that run
        others = {entry.id for entry in waiting_first if not _end(entry)}
        if asked := len(live) - len(others):
            print(f"asked {asked} submission{'s' * (asked != 1)} to SLURM to save and leave …", flush=True)
        while any(entry.id not in others for entry in _live(study)):
            time.sleep(POLL_S)
    except SlurmError as error:
        raise refused(error, study) from error
    except StudyError as error:
        cure = f"{study.root.name} was handed to SLURM: use `tunestudy stop` on a login node of that cluster"
        raise StudyError(error.place, f"{error.message}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED) from error
    if others:
        cause = f"may not be ended by you: {', '.join(sorted(others))}; ask who submitted them"
        raise StudyError(study.root.name, cause, exit_code=Exit.PREFLIGHT_REFUSED)
    return len(live)


def _live(study: StudyDir) -> list[Queued]:
    found: list[Queued] = []

    def look() -> str:
        found[:] = [entry for entry in read_queue(study) if entry.is_live]
        return ""

    patiently(look)
    return found


def _end(entry: Queued) -> bool:
    """A batch shell that runs has become our loop, which takes SIGTERM for a wish to save and leave. False where SLURM
    does not let us."""
    how = [] if entry.is_pending or entry.state == "CONFIGURING" else ["--signal=TERM", "--batch"]
    try:
        patiently(lambda: ask("scancel", *how, entry.id))
    except SlurmError as error:
        if error.is_away:
            raise
        # it ended meanwhile, or had not begun: the next look at the queue tells
        print(f"scancel {entry.id}: {error}", flush=True)
        return "denied" not in str(error).lower()
    return True

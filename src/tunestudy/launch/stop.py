"""`stop`: what runs of a study saves and leaves, wherever the launcher was started."""

import contextlib
import os
import signal
import time
from pathlib import Path

from tunestudy.config.errors import Exit
from tunestudy.launch.orphans import orphan_of, stop_orphan
from tunestudy.launch.slurm.stop import stop_submissions
from tunestudy.records.launchers import launchers
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.listing import entries

POLL_S = 0.2


def stop_study(study_dir: Path) -> Exit:
    """Ask everything of the study that runs on this machine or by SLURM to save and leave, and wait until it has.

    What runs on other machines is named, as signals do not reach it: then the exit code is 3.
    """
    study = StudyDir(study_dir)
    submitted = stop_submissions(study)
    alive = launchers(study)
    here = [holder for holder in alive if holder.here]
    elsewhere = [holder for holder in alive if not holder.here]
    for holder in here:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGTERM)
    orphans = _stop_orphans(study) if not here else 0
    for holder in elsewhere:
        print(f"{study_dir.name} also runs as {holder}: use `tunestudy stop` on that machine")
    if not here and not orphans:
        if not elsewhere:
            where = "" if study_dir.is_dir() else f": there is no {study_dir}; see --results"
            idle = f"nothing of {study_dir.name} is running{where}"
            print("stopped; `tunestudy run` continues" if submitted else idle)
        return Exit.PREFLIGHT_REFUSED if elsewhere else Exit.DONE
    print("asked the jobs to save and leave …", flush=True)
    while not all(holder.is_gone for holder in here) or any(orphan_of(folder) for folder in _job_folders(study)):
        time.sleep(POLL_S)
    print("stopped; `tunestudy run` continues")
    return Exit.PREFLIGHT_REFUSED if elsewhere else Exit.DONE


def _job_folders(study: StudyDir) -> list[JobDir]:
    return [JobDir(folder) for folder in entries(study.jobs) if folder.is_dir()]


def _stop_orphans(study: StudyDir) -> int:
    """SIGTERM to jobs whose launcher was killed; returns how many."""
    orphans = [orphan for folder in _job_folders(study) if (orphan := orphan_of(folder))]
    for orphan in orphans:
        stop_orphan(orphan)
    return len(orphans)

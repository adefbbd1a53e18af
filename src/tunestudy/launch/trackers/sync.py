"""`sync`: tell trackers what they were not told while the study ran, as one was down or a machine had no network."""

import math
import sys
from pathlib import Path

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.trackers import TRACKERS
from tunestudy.launch.trackers.start import Sinks
from tunestudy.preflight.trackers import tracker_problems
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import make_plan
from tunestudy.study.problems import raise_all


def sync_study(loaded: LoadedStudy, results: Path) -> Exit:
    """Bring every tracker up to date and wait for it, however long; Ctrl-C leaves. 4 when something is left."""
    jobs = [planned.job for planned in make_plan(loaded, results).jobs]
    folder = StudyDir(results / loaded.study.study)
    reporting = {tracker for job in jobs if job.training for tracker in job.training.report_to}
    if not reporting:
        raise StudyError(loaded.typed, "no stage of it reports anywhere: set report_to, such as `report_to: wandb`")
    if not folder.jobs.is_dir():
        raise StudyError(str(folder.root), "nothing has run yet; `tunestudy run` tells trackers by itself")
    raise_all(list(tracker_problems(jobs, loaded.study.env)))
    untold = Sinks(loaded.study, jobs, folder, patience_s=math.inf).close()
    for words in untold:
        print(words, file=sys.stderr)
    for tracker in [tracker for tracker in TRACKERS if tracker in reporting]:
        states = [read_object(folder.job(job.id).tracker_state(tracker)) for job in jobs if job.training]
        begun = sum(bool(state) for state in states)
        print(
            f"{tracker}: {sum(bool(state.get('finished')) for state in states)} of {begun} runs are told to their end"
        )
    return Exit.JOBS_FAILED if untold else Exit.DONE

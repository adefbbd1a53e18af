"""What brings one tracker up to date with a study's files: a process of its own, so that one which hangs, fails or is
not there can touch no job.

    python -m tunestudy.launch.trackers.sink TRACKER RESULTS/STUDY   < wish.json

The first line of standard input is a JSON object: `jobs` (their ids), `settings` (`trackers:` of the study). While the
input stays open it follows; at its end it sends what is there and leaves. How far it came stands in each job's
`trackers/<tracker>.json`, written before values are handed over: if it is killed, values get lost rather than doubled.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tunestudy.config.job import Job
from tunestudy.config.trackers import Tracker, TrackerSettings
from tunestudy.launch.outcome import is_complete
from tunestudy.launch.trackers.about import About, about, summary_of
from tunestudy.launch.trackers.kinds import OpenRun, open_run, project_from_environment
from tunestudy.launch.trackers.steps import JobSteps
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.events import Journal
from tunestudy.records.launchers import writer_name
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.lease import Lease, LeaseHeldError
from tunestudy.records.logs import scrub, write_output_to
from tunestudy.records.redact import redact
from tunestudy.study.state import is_running

POLL_S = 2.0
RETRY_S = 60.0
"""After a tracker has failed."""
SLOW_S = 60.0
"""A tracker that takes longer over one call is told of, once."""

Open = Callable[[Tracker, About], OpenRun]


@dataclass
class Followed:
    """One job on its way to the tracker."""

    job: Job
    folder: JobDir
    lease: Lease
    steps: JobSteps
    about: About
    run: OpenRun | None = None
    not_before: float = 0.0


@dataclass
class Sink:
    """All jobs of one launcher for one tracker."""

    tracker: Tracker
    study: StudyDir
    settings: TrackerSettings
    left: dict[str, JobDir]
    """Jobs that are not told to their end."""
    tell: Callable[[str, str], None]
    """Job and message: something that the user should know. Said once."""
    open: Open = open_run
    following: dict[str, Followed] = field(default_factory=dict)
    busy_since: float | None = None

    def look(self, *, last: bool) -> None:
        """Bring everything up to date. `last`: nothing will be looked at again."""
        for name in list(self.left):
            followed = self.following.get(name) or self._begin(name)
            if followed is not None and (time.monotonic() >= followed.not_before or last):
                self._bring_up_to_date(followed, last=last)

    def _begin(self, name: str) -> Followed | None:
        """Take a job that has something to tell and that nobody else tells of."""
        folder = self.left[name]
        if not folder.loss_log.exists():
            return None
        state = read_object(folder.tracker_state(self.tracker))
        told = read_object(folder.job_json)
        if not told or state.get("finished"):
            del self.left[name]
            return None
        try:
            lease = Lease.acquire(folder.tracker_state(self.tracker).with_suffix(".lease"))
        except LeaseHeldError:
            return None
        state = read_object(folder.tracker_state(self.tracker))
        job = Job.model_validate(told)
        described = about(job, folder, self.study.root.name, self.settings, project_from_environment(self.tracker))
        through = state.get("through")
        steps = JobSteps(folder, through if isinstance(through, int) else -1)
        self.following[name] = Followed(job, folder, lease, steps, described)
        return self.following[name]

    def _bring_up_to_date(self, followed: Followed, *, last: bool) -> None:
        done = is_complete(followed.job, followed.folder)  # asked first: then its tables are whole
        before = followed.steps.through
        ready = followed.steps.ready(ended=done or (last and not is_running(followed.folder)))
        if not ready and not done and not (last and followed.run):
            return
        try:
            self.busy_since = time.monotonic()
            followed.run = followed.run or self.open(self.tracker, followed.about)
            self._note(followed, finished=False)
            for step, values in ready:
                followed.run.log(step, values)
                before = step
            if done or last:
                failed = not done and followed.folder.failure_json.exists()
                summary = summary_of(followed.job, followed.folder) if done or failed else {}
                followed.run.close(followed.steps.through, summary)
                self._leave(followed, finished=done)
        except Exception as error:  # noqa: BLE001 - whatever a tracker throws, jobs and the other runs go on
            self._put_off(followed, before, error)
        finally:
            self.busy_since = None

    def _put_off(self, followed: Followed, through: int, error: Exception) -> None:
        """Try again later from where it came to."""
        cure = f"jobs go on; it is tried again every {RETRY_S:.0f} s, and by `tunestudy sync`"
        self.tell(followed.job.id, f"{self.tracker} failed ({type(error).__name__}: {error}); {cure}")
        followed.run, followed.not_before = None, time.monotonic() + RETRY_S
        followed.steps = JobSteps(followed.folder, through)
        self._note(followed, finished=False)

    def _leave(self, followed: Followed, *, finished: bool) -> None:
        self._note(followed, finished=finished)
        followed.lease.release()
        del self.following[followed.job.id], self.left[followed.job.id]

    def _note(self, followed: Followed, *, finished: bool) -> None:
        facts = {"run": followed.about.run_id, "through": followed.steps.through, "finished": finished}
        named = {"project": followed.about.project, "name": followed.about.name}
        write_json(followed.folder.tracker_state(self.tracker), {**facts, **named})


def main(tracker: Tracker, root: str, opens: Open = open_run) -> int:
    """Follow until standard input ends; 1 when something is left to tell."""
    study = StudyDir(Path(root))
    wish = json.loads(sys.stdin.readline())
    log = study.tracker_log(tracker)
    write_output_to(log)
    over = threading.Event()
    threading.Thread(target=_wait_for_end, args=(over,), daemon=True).start()
    told: set[str] = set()
    lock = threading.Lock()
    with Journal(study.events, f"{writer_name()}-{tracker}") as journal:

        def tell(job: str, message: str) -> None:
            with lock:
                print(f"{job}: {redact(message)}", flush=True)
                if not told:
                    journal.write("alert", job=job, kind="tracker", message=message, step=None, cause=tracker)
                told.add(message)

        jobs = {name: study.job(name) for name in wish["jobs"]}
        sink = Sink(tracker, study, TrackerSettings.model_validate(wish["settings"]), jobs, tell, opens)
        threading.Thread(target=_watch_calls, args=(sink,), daemon=True).start()
        while not over.wait(POLL_S):
            sink.look(last=False)
        sink.look(last=True)
        left = [name for name in sink.left if name in sink.following]
    scrub(log)
    return 1 if left else 0


def _wait_for_end(over: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    over.set()


def _watch_calls(sink: Sink) -> None:
    """Tell of a tracker that does not come back."""
    while True:
        time.sleep(SLOW_S / 10)
        since = sink.busy_since
        if since is not None and time.monotonic() - since > SLOW_S:
            silent = f"{sink.tracker} has not answered for {SLOW_S:.0f} s"
            sink.tell("", f"{silent}; jobs go on, `tunestudy sync` sends the rest")
            return


if __name__ == "__main__":
    code = main(cast("Tracker", sys.argv[1]), sys.argv[2])
    sys.stdout.flush()
    os._exit(code)  # threads of a tracker that hangs would keep it

"""Looks at running jobs' files once in a while and raises alerts: in the journal, to the display, to a user's command.

It only reads what jobs write anyway, so it costs them nothing, and it is the same on a laptop and inside a SLURM
allocation. Each cause is told once per study, however often it is run again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunestudy.config.study import Study
from tunestudy.launch.alerts.feed import AlertFeed, alert_words
from tunestudy.launch.alerts.notify import Notifier
from tunestudy.launch.alerts.rules import (
    Alert,
    Pace,
    high_loss,
    little_disk,
    outside_bands,
    outside_benchmark,
    slow_rank,
)
from tunestudy.launch.task import Task
from tunestudy.records.atomic import read_object
from tunestudy.records.events import Journal
from tunestudy.records.growing import GrowingTable
from tunestudy.records.layout import StudyDir

LOOK_S = 1.0
DISK_LOOK_S = 15.0
_RECENT_RANK_ROWS = 5


@dataclass
class Watched:
    """What is known of one job under way."""

    task: Task
    tables: tuple[GrowingTable, ...]
    last_step: dict[Path, int] = field(default_factory=dict)
    ranks: dict[int, GrowingTable] = field(default_factory=dict)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    hosts: dict[int, str] = field(default_factory=dict)
    pace: Pace = field(default_factory=Pace)
    attempt: int | None = None
    failures: int = 0
    stop_since: float | None = None


class Watchman:
    """All alerts of one launcher."""

    def __init__(self, study: Study, folder: StudyDir, journal: Journal, tell: Callable[[str], None]) -> None:
        self._study, self._settings, self._folder = study, study.alerts, folder
        self._journal, self._tell = journal, tell
        self._notifier = Notifier(study.alerts, study.env, tell)
        self._feed = AlertFeed(folder.events)
        self._told = {_key(alert) for alert in self._feed.new()}
        self._jobs: dict[str, Watched] = {}
        self._settled: set[str] = set()
        self._next = self._next_disk = 0.0

    def look(self, tasks: Sequence[Task]) -> None:
        """Called as often as one likes; looks once a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_S
        for task in tasks:
            running = task.state in ("running", "elsewhere") and not (task.attempt and task.attempt.running.waits)
            if running or task.job.id in self._jobs:
                self._look_at(task, now, running=running)
        if now >= self._next_disk and self._jobs:
            self._next_disk = now + DISK_LOOK_S
            self._look_at_disk()
        for alert in self._feed.new():  # others' as well: trackers and launchers elsewhere
            self._told.add(_key(alert))
            self._tell(alert_words(alert))

    def close(self, tasks: Sequence[Task]) -> None:
        """The last look."""
        self._next = 0.0
        self.look(tasks)
        self._notifier.close()

    def _look_at(self, task: Task, now: float, *, running: bool) -> None:
        known = self._jobs.get(task.job.id)
        if known is None:
            folder = task.folder
            known = Watched(task, (GrowingTable(folder.loss_log), GrowingTable(folder.eval_log)))
            self._jobs[task.job.id] = known
        told = read_object(task.folder.progress_json)
        for alert in (*self._of_rows(known, told), *self._of_ranks(known), *self._of_failures(known)):
            self._raise(alert, known, now)
        if running:
            for alert in self._of_pace(known, told, now):
                self._raise(alert, known, now)
            self._insist(known, now)
            return
        if task.state == "done":
            for alert in self._of_scores(known):
                self._raise(alert, known, now)
        del self._jobs[task.job.id]

    def _of_rows(self, known: Watched, told: dict[str, Any]) -> list[Alert]:
        job, vocabulary = known.task.job, told.get("vocabulary")
        found: list[Alert] = []
        for table in known.tables:
            for row in table.read():
                values = {name: _number(text) for name, text in row.items()}
                step = int(values.get("step") or 0)
                before = known.last_step.get(table.path, -1)
                before = before if before < step else -1
                alert = high_loss(job, step, values.get("train_loss"), vocabulary, self._settings.loss_margin)
                found += [alert] if alert else []
                found += outside_bands(job, self._study.expect, values, step, before)
                known.last_step[table.path] = step
        return found

    def _of_pace(self, known: Watched, told: dict[str, Any], now: float) -> list[Alert]:
        if told.get("attempt") != known.attempt:
            known.attempt, known.pace = told.get("attempt"), Pace()
        step = told.get("step")
        if told.get("phase") != "train" or not isinstance(step, int) or self._settings.stalled_after is None:
            known.pace.rest(now)
            return []
        known.pace.see(step, now)
        settings = self._settings
        assert settings.stalled_after is not None
        alert = known.pace.stalled(known.task.job, now, factor=settings.stalled_after, least_s=settings.stalled_least_s)
        return [alert] if alert else []

    def _of_ranks(self, known: Watched) -> list[Alert]:
        factor, folder = self._settings.slow_rank, known.task.folder
        if factor is None:
            return []
        for path in folder.logs.glob("pace-*.csv"):  # those of other hosts may show up later than the first
            known.ranks.setdefault(_rank(path), GrowingTable(path))
        news = False
        for rank, table in known.ranks.items():
            for row in table.read():
                seconds = _number(row.get("own_s", ""))
                known.hosts[rank] = row.get("host", "")
                if seconds is not None:
                    known.seconds[rank] = [*known.seconds.get(rank, []), seconds][-_RECENT_RANK_ROWS:]
                    news = True
        alert = slow_rank(known.task.job, known.seconds, known.hosts, factor) if news else None
        return [alert] if alert else []

    def _of_failures(self, known: Watched) -> list[Alert]:
        news = known.task.failures[known.failures :]
        known.failures = len(known.task.failures)
        job = known.task.job.id
        return [
            Alert(job=job, kind="nan", message=one.message, step=one.step, cause=f"step {one.step}")
            for one in news
            if one.kind == "nan"
        ]

    def _of_scores(self, known: Watched) -> list[Alert]:
        found: list[Alert] = []
        for name in known.task.job.evaluations:
            told = read_object(known.task.folder.eval_json(name))
            score = (told.get("metrics") or {}).get(told.get("primary"))
            if isinstance(score, int | float):
                found += outside_benchmark(known.task.job, self._study.expect, name, score)
        return found

    def _look_at_disk(self) -> None:
        if self._settings.disk_free_share is None:
            return
        try:
            usage = psutil.disk_usage(str(self._folder.root))
        except OSError:
            return
        needed = sum(_newest_checkpoint_bytes(known.task) for known in self._jobs.values())
        alert = little_disk(usage.free, usage.total, needed, self._settings.disk_free_share)
        if alert:
            self._write(alert)
        else:
            self._told.discard(("", "disk", ""))  # there is room again; should it go, that is news

    def _raise(self, alert: Alert, known: Watched, now: float) -> None:
        self._write(alert)
        attempt = known.task.attempt
        if alert.stop and attempt is not None and not attempt.stopped_for:
            attempt.stopped_for = alert.message
            known.stop_since = now
            attempt.running.ask_to_stop()

    def _insist(self, known: Watched, now: float) -> None:
        """Kill what was asked to stop and did not."""
        attempt = known.task.attempt
        if attempt is None or not attempt.stopped_for:
            known.stop_since = None
        elif known.stop_since is not None and now - known.stop_since > self._study.resources.stop_grace_s:
            attempt.running.kill()

    def _write(self, alert: Alert) -> None:
        facts = asdict(alert)
        if _key(facts) in self._told:
            return
        self._told.add(_key(facts))
        self._journal.write("alert", **facts)
        self._notifier.send({"study": self._study.study, "t": round(time.time(), 3), **facts})


def _key(alert: dict[str, Any]) -> tuple[str, str, str]:
    return str(alert.get("job")), str(alert.get("kind")), str(alert.get("cause") or "")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _rank(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _newest_checkpoint_bytes(task: Task) -> int:
    """Of the next checkpoint: as many as the newest has. 0 where there is none, or the job deletes it just now."""
    try:
        checkpoints = list(task.folder.root.glob("checkpoint-*[0-9]"))
        newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
        return 0 if newest is None else sum(file.stat().st_size for file in newest.iterdir() if file.is_file())
    except OSError:
        return 0

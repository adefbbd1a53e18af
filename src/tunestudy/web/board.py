"""How far every job is, judged from the files and remembered: only what changed is read again.

The plan is `plan.json`, as the last `run` left it, so that the page shows what is carried out, not what the study file
has become meanwhile.
"""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tunestudy.records.atomic import read_object
from tunestudy.records.kept import find_checkpoints
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.redact import redact, redactor
from tunestudy.report.values import mapping, number, texts, whole
from tunestudy.study.state import folders_on_disk, is_running
from tunestudy.web.journal import Journal

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_SETTLED_NS = 2_000_000_000
"""Younger changes may be followed by another of the same time stamp: they are looked at again."""
_PROGRESS = ("step", "total_steps", "loss", "eta_s", "tokens_per_s", "phase")
_UNDONE = ("pending", "interrupted", "evaluate")
_STAMPED = ("eval", "lease", "claim")
"""Folders of a job beside its own: what decides its state is made or renamed in one of them, and changes its time."""


@dataclass
class Seen:
    """A job of the plan and what is known of it."""

    index: int
    id: str
    stage: str
    seed: int
    variants: tuple[str, ...]
    needs: tuple[str, ...]
    fingerprint: str
    steps: int | None
    status: str = "pending"
    stamped: tuple[str, ...] = ()
    """Folders whose times are compared, as texts: making ten thousand `Path`s would take longer than asking."""
    stamp: tuple[int, ...] = ()
    told: dict[str, Any] = field(default_factory=dict)
    """What the page was last told."""
    version: int = 0


class Board:
    """All jobs of one study. `refresh` brings them up to date; `version` grows with every change."""

    def __init__(self, study: StudyDir) -> None:
        self.study = study
        self.journal = Journal(study.events)
        self.jobs: list[Seen] = []
        self.by_id: dict[str, Seen] = {}
        self.name = redact(study.root.name)
        self.expected: dict[str, float] = {}
        """Seconds of training that jobs were expected to take."""
        self.version = 1
        self.plan_version = 0
        self.problem = ""
        """Why there is nothing to show; empty when there is."""
        self._plan_stamp: tuple[int, ...] = ()
        self._redact = redactor()

    def refresh(self) -> None:
        """Look at everything that may have changed."""
        self.version += 1
        self._read_plan()
        self.journal.refresh()
        try:
            on_disk = folders_on_disk(self.study)
        except OSError:
            on_disk = set()  # it was moved away while we looked
        for job in self.jobs:
            if job.id in on_disk:
                self._look(job)
            else:
                job.status, job.stamp = "pending", ()
        for job in self.jobs:
            self._tell(job)

    @property
    def variants(self) -> list[str]:
        """In the order in which the plan names them."""
        return list(dict.fromkeys(name for job in self.jobs for name in job.variants))

    def changed_since(self, version: int) -> Iterator[dict[str, Any]]:
        """What is new of jobs that changed after `version`."""
        return (job.told for job in self.jobs if job.version > version)

    def folder_of(self, job_id: str) -> JobDir | None:
        """Where a job of the plan lies; None for any other name, and for one that leads out of the study."""
        if job_id not in self.by_id or not _NAME.fullmatch(job_id):
            return None
        folder = self.study.job(job_id)
        inside = folder.root.resolve().is_relative_to(self.study.jobs.resolve())
        return folder if inside else None

    def _read_plan(self) -> None:
        stamp = _stamps(self.study.plan_json, self.study.estimates)
        if stamp == self._plan_stamp and not _is_recent(stamp):
            return
        self._plan_stamp = stamp
        plan = read_object(self.study.plan_json)
        self.problem = "" if plan else self._why_nothing()
        entries = plan.get("jobs")
        told = [mapping(entry) for entry in entries] if isinstance(entries, list) else []
        known = [(job.id, job.fingerprint, job.variants, job.needs) for job in self.jobs]
        jobs = [_planned(index, entry) for index, entry in enumerate(told) if _NAME.fullmatch(str(entry.get("id")))]
        if known != [(job.id, job.fingerprint, job.variants, job.needs) for job in jobs]:
            self.jobs, self.by_id = jobs, {job.id: job for job in jobs}
            for index, job in enumerate(jobs):
                job.index = index
                root = str(self.study.job(job.id).root)
                job.stamped = (root, *(f"{root}/{name}" for name in _STAMPED))
            self.plan_version += 1
            self.name = redact(str(plan.get("study") or self.study.root.name))
        expected = read_object(self.study.estimates)
        self.expected = {name: s for name in expected if (s := number(mapping(expected[name]).get("train_s")))}

    def _why_nothing(self) -> str:
        if not self.study.root.is_dir():
            return f"there is no results folder {self.study.root.name} here: nothing has run yet, or it was moved"
        return "nothing has run yet, or plan.json is being written"

    def _look(self, job: Seen) -> None:
        stamp = _stamps(*(job.stamped[:2] if job.status == "done" else job.stamped))
        known = stamp == job.stamp[: len(stamp)] and not _is_recent(stamp)
        if known and job.status != "running":
            return
        try:
            job.status = _judge(self.study.job(job.id), job)
        except OSError:
            job.status = "pending"  # its folder vanished while we looked
        job.stamp = stamp if len(stamp) == len(job.stamped) else (*stamp, 0, 0)

    def _tell(self, job: Seen) -> None:
        told: dict[str, Any] = {"i": job.index, "s": job.status}
        if job.status in _UNDONE and self._is_blocked(job):
            told["s"] = "blocked"
        if job.status not in ("pending", "done"):
            told |= self._details(job)
        if spans := self.journal.spans.get(job.id):
            told |= {"slot": spans[-1].slot, "attempts": len(spans), "began": spans[-1].start}
        if told != job.told:
            job.told, job.version = told, self.version

    def _details(self, job: Seen) -> dict[str, Any]:
        folder = self.study.job(job.id)
        told: dict[str, Any] = {}
        if job.status in ("running", "interrupted"):
            progress = read_object(folder.progress_json)
            told |= {name: progress[name] for name in _PROGRESS if _is_plain(progress.get(name))}
        if job.status == "failed":
            failure = read_object(folder.failure_json)
            told |= {"kind": str(failure.get("kind") or "error"), "error": str(failure.get("message") or "")[:400]}
        return mapping(self._redact(told))

    def _is_blocked(self, job: Seen) -> bool:
        """Whether it waits for a job that failed, directly or through others; jobs come after what they need."""
        needed = (self.by_id.get(name) for name in job.needs)
        return any(other and (other.status == "failed" or other.told.get("s") == "blocked") for other in needed)


def _planned(index: int, entry: dict[str, Any]) -> Seen:
    return Seen(
        index=index,
        id=str(entry.get("id")),
        stage=str(entry.get("stage") or ""),
        seed=whole(entry.get("seed")) or 0,
        variants=tuple(redact(name) for name in texts(entry.get("variants"))),
        needs=tuple(texts(entry.get("parents"))),
        fingerprint=str(entry.get("fingerprint") or ""),
        steps=whole(entry.get("steps")),
    )


def _judge(folder: JobDir, job: Seen) -> str:
    """The same judgement as `study.state.job_status`, from job.json instead of the study."""
    trained = read_object(folder.result_json).get("fingerprint") == job.fingerprint
    if trained and _is_scored(folder):
        return "done"
    if is_running(folder):
        return "running"
    if folder.failure_json.exists():
        return "failed"
    if trained:
        return "evaluate"
    return "interrupted" if folder.progress_json.exists() else "pending"


def _is_scored(folder: JobDir) -> bool:
    """On every benchmark that the job is wanted to be scored on, as they are defined today, and so its checkpoints."""
    wanted = {name: mapping(of) for name, of in mapping(read_object(folder.job_json).get("evaluations")).items()}
    if not all(_has_score(folder, name, of) for name, of in wanted.items()):
        return False
    curves = {name: steps for name, of in wanted.items() if (steps := mapping(of.get("benchmark")).get("checkpoints"))}
    return not curves or all(
        _has_score(folder.at_checkpoint(checkpoint.name), name, wanted[name])
        for checkpoint in find_checkpoints(folder.root)
        for name, steps in curves.items()
        if steps is True or (isinstance(steps, list) and checkpoint.step in steps)
    )


def _has_score(folder: JobDir, name: str, wanted: dict[str, Any]) -> bool:
    return bool(read_object(folder.eval_json(name)).get("fingerprint") == wanted.get("fingerprint"))


def _stamps(*paths: str | os.PathLike[str]) -> tuple[int, ...]:
    return tuple(_stamp(path) for path in paths)


def _stamp(path: str | os.PathLike[str]) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - asked some ten thousand times for every look
    except OSError:
        return 0


def _is_recent(stamp: tuple[int, ...]) -> bool:
    return abs(time.time_ns() - max(stamp)) < _SETTLED_NS


def _is_plain(value: object) -> bool:
    return isinstance(value, str) or number(value) is not None

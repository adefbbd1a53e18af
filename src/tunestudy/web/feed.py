"""What the page is told: everything at first, then only what changed."""

import secrets
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from tunestudy.records.layout import StudyDir
from tunestudy.web.board import Board
from tunestudy.web.curves import Curves, Request
from tunestudy.web.job import job_details, log_piece
from tunestudy.web.outlook import outlook
from tunestudy.web.sections import Maker
from tunestudy.web.slots import timeline

FRESH_S = 0.5
"""However many look at the page, files are looked at no more often than this."""
MANY = 2000
"""Jobs from which on a page that opens is told at once what was known last, and asks again when it has drawn that."""


class Feed:
    """One study, shared by all who look at it. Every method may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self.session = secrets.token_hex(4)
        """Versions of another start of the server mean nothing here."""
        self.board = Board(StudyDir(root))
        self.maker = Maker(root)
        self._curves = Curves(self.board)
        self._lock = threading.Lock()
        self._fresh_until = 0.0
        self._looked_at = 0.0
        """Unix seconds."""
        self._journal_told = 0
        self._journal_changed_at = 0

    def name(self) -> str:
        """Of the study."""
        if not self._looked_at:
            with self._lock:
                self._refresh()
        return self.board.name

    def data(self, since: str) -> dict[str, Any]:
        """What is new after `since`, the `version` of an earlier answer; all of it after any other text.

        All of a study of many jobs is as it was seen last, and `stale`: looking at it takes longer than telling it.
        """
        with self._lock:
            board = self.board
            stale = len(board.jobs) >= MANY and since.rpartition("-")[0] != self._plan_key() and not self._is_fresh()
            if not stale:
                self._refresh()
            plan, _, version = since.rpartition("-")
            same_plan = plan == self._plan_key()
            known = int(version) if same_plan and version.isdigit() else 0
            jobs = list(board.changed_since(known))
            told: dict[str, Any] = {
                "version": f"{self._plan_key()}-{board.version}",
                "now": self._looked_at,
                "stale": stale,
                "problem": board.problem,
                "sections": f"{self.session}-{self.maker.version}",
                "jobs": jobs,
            }
            if not same_plan:
                told |= {"plan": self._plan(), "jobs": [job for job in jobs if len(job) > 2 or job["s"] != "pending"]}
            journal_changed = not same_plan or self._journal_changed_at > known
            if jobs or not same_plan:
                told["counts"] = Counter(str(job.told["s"]) for job in board.jobs)
                told["outlook"] = outlook(board)
            if journal_changed:
                told["alerts"] = board.journal.alerts
            if jobs or journal_changed:
                told["timeline"] = timeline(board, told["now"])
            return told

    def curves(self, request: Request) -> dict[str, Any]:
        """Learning curves of the chosen variants."""
        with self._lock:
            self._refresh()
            return self._curves.answer(request, self.maker.latest.baseline)

    def job(self, job_id: str) -> dict[str, Any] | None:
        """One job in full."""
        with self._lock:
            self._refresh()
            return job_details(self.board, job_id)

    def log(self, job_id: str, name: str, start: int | None) -> dict[str, Any] | None:
        """A piece of one of its logs."""
        with self._lock:
            self._refresh()
        return log_piece(self.board, job_id, name, start)

    def sections(self) -> dict[str, Any]:
        """The report's sections as they were made last."""
        latest = self.maker.latest
        return {
            "version": f"{self.session}-{self.maker.version}",
            "html": latest.html,
            "sentence": latest.sentence,
            "description": latest.description,
            "problem": latest.problem,
            "made_at": latest.made_at,
            "has_gallery": bool(latest.gallery),
        }

    def _is_fresh(self) -> bool:
        return time.monotonic() < self._fresh_until

    def _refresh(self) -> None:
        if self._is_fresh():
            return
        self._looked_at = time.time()
        self.board.refresh()
        self._fresh_until = time.monotonic() + FRESH_S
        if self.board.journal.version != self._journal_told:
            self._journal_told, self._journal_changed_at = self.board.journal.version, self.board.version
        if not self.board.problem:
            self.maker.look(self._state())

    def _state(self) -> object:
        """Changes when the report would say something else; steps of a running job are left to the curves."""
        states = hash(
            tuple((job.id, job.told.get("s"), job.stamp[:2] * (job.status == "done")) for job in self.board.jobs)
        )
        return states, self.board.journal.version, self.board.plan_version

    def _plan_key(self) -> str:
        """Changes with the plan, and once the order of variants is known."""
        latest = self.maker.latest
        order = zlib.crc32(repr((latest.variants, latest.baseline)).encode())
        return f"{self.session}-{self.board.plan_version}-{order:08x}"

    def _plan(self) -> dict[str, Any]:
        board = self.board
        variants = _ordered(board.variants, self.maker.latest.variants)
        places = {name: place for place, name in enumerate(variants)}
        jobs = [
            [
                job.id,
                job.stage,
                job.seed,
                [places[name] for name in job.variants],
                job.steps,
                board.expected.get(job.id),
            ]
            for job in board.jobs
        ]
        return {"name": board.name, "variants": variants, "jobs": jobs, "baseline": self.maker.latest.baseline}


def _ordered(variants: list[str], wanted: tuple[str, ...]) -> list[str]:
    """As the study names them, once that is known."""
    known = set(variants)
    return list(dict.fromkeys([*(name for name in wanted if name in known), *variants]))

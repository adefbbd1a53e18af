"""The launchers' journals as they grow: attempts, slots, failures and alerts, each line read once."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestudy.records.follow import Tail
from tunestudy.records.redact import redact_tree
from tunestudy.report.values import number, whole

_ENDS = {"job_finished": "done", "job_failed": "failed", "job_interrupted": "interrupted"}
_MOST_BYTES = 16 * 2**20
MOST_ALERTS = 200


@dataclass
class Span:
    """One attempt on a slot. Times in unix seconds."""

    job: str
    attempt: int
    slot: str
    start: float
    end: float | None = None
    """None: not ended, as far as the journal knows."""
    outcome: str = "running"


@dataclass
class Journal:
    """What all writers told so far."""

    folder: Path
    spans: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    """By job."""
    alerts: list[dict[str, Any]] = field(default_factory=list)
    """The latest, oldest first: `t`, `job`, `kind`, `message`."""
    version: int = 0
    _tails: dict[Path, Tail] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read what was added. A journal that was begun anew (the study was deleted and run again) starts over."""
        try:
            paths = sorted(self.folder.glob("*.jsonl"))
        except OSError:
            paths = []
        found = [(path, *self._tails.setdefault(path, Tail(path)).read(_MOST_BYTES)) for path in paths]
        if any(again for _, _, again in found) or self._tails.keys() - set(paths):
            self.spans.clear()
            self.alerts.clear()
            self._tails = {path: Tail(path) for path in paths}
            found = [(path, *self._tails[path].read(_MOST_BYTES)) for path in paths]
            self.version += 1
        events = [event for _, data, _ in found for event in _events(data)]
        for event in sorted(events, key=lambda event: number(event.get("t")) or 0.0):
            self._take(event)
        self.version += bool(events)

    def _take(self, event: dict[str, Any]) -> None:
        name, job, when = event.get("event"), str(event.get("job") or ""), number(event.get("t")) or 0.0
        if name == "job_started":
            attempt = whole(event.get("attempt")) or 1
            self.spans[job].append(Span(job, attempt, str(event.get("slot") or "?"), when))
        elif name in _ENDS:
            self._end(job, whole(event.get("attempt")), when, _ENDS[name])
        elif name == "alert":
            told = {key: str(event.get(key) or "") for key in ("job", "kind", "message")}
            self.alerts = [*self.alerts, {"t": when, **redact_tree(told)}][-MOST_ALERTS:]

    def _end(self, job: str, attempt: int | None, when: float, outcome: str) -> None:
        for span in reversed(self.spans.get(job, [])):
            if span.end is None and attempt in (None, span.attempt):
                span.end, span.outcome = max(when, span.start), outcome
                return


def _events(data: bytes) -> list[dict[str, Any]]:
    events = []
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # its writer was killed inside this line
        if isinstance(event, dict):
            events.append(event)
    return events

"""Alerts as the journals of all writers tell them, each given out once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunestudy.records.follow import Tail
from tunestudy.records.redact import redact

_AT_ONCE_BYTES = 16 * 2**20


class AlertFeed:
    """Follows `events/`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tails: dict[Path, Tail] = {}

    def new(self) -> list[dict[str, Any]]:
        """Alerts that were added, oldest first."""
        found = [alert for path in self._folder.glob("*.jsonl") for alert in self._in(path)]
        return sorted(found, key=lambda alert: alert["t"])

    def _in(self, path: Path) -> Iterator[dict[str, Any]]:
        tail = self._tails.setdefault(path, Tail(path))
        while data := tail.read(_AT_ONCE_BYTES)[0]:
            for line in data.splitlines():
                if b'"alert"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # its writer was killed inside this line
                if event.get("event") == "alert":
                    yield event


def alerts_in(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`job`, `kind`, `message`, `step` and `t` of every alert."""
    names = ("t", "job", "kind", "message", "step")
    return [{name: event.get(name) for name in names} for event in events if event.get("event") == "alert"]


def alert_words(alert: Mapping[str, Any]) -> str:
    """One line for people."""
    job = f"{alert['job']}: " if alert.get("job") else ""
    return redact(f"alert ({alert.get('kind')}): {job}{alert.get('message')}")

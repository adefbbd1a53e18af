"""Points of the readiness checklist, asked for side by side: none of them can hold the others up or end them."""

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunestudy.records.redact import redact

State = Literal["ok", "warning", "refused", "not needed"]

PATIENCE_S = 20.0
"""A point that takes longer is told as one that gave no answer. Hosts have a patience of their own."""
COMMAND_PATIENCE_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One line of the checklist."""

    check: str
    state: State
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"check": self.check, "state": self.state, "found": self.found, "remedy": self.remedy}


def ok(check: str, found: str) -> Point:
    return Point(check=check, state="ok", found=found)


def not_needed(check: str, why: str) -> Point:
    return Point(check=check, state="not needed", found=why)


def warning(check: str, found: str, remedy: str) -> Point:
    return Point(check=check, state="warning", found=found, remedy=remedy)


def refused(check: str, found: str, remedy: str) -> Point:
    return Point(check=check, state="refused", found=found, remedy=remedy)


def refusal(check: str, message: str) -> Point:
    """Of an error's message, which ends with what to do, behind its last semicolon."""
    found, _, remedy = message.rpartition("; ")
    return refused(check, found or message, remedy if found else "")


def some(names: Sequence[str], most: int = 5) -> str:
    """Names with commas; of many the first and how many there are."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names)} in all)"


Probe = Callable[[], Sequence[Point]]
"""Finds some points. It may take long, and may raise: both become a warning."""


def ask_all(
    probes: Mapping[str, Probe], *, patience_s: float = PATIENCE_S, longer_s: Mapping[str, float] | None = None
) -> list[Point]:
    """The points of all probes, in their order; all run at the same time, each for `patience_s` or its own in
    `longer_s`.

    Threads are left behind where they hang, on a file server that is away for instance: a command that was started
    ends with its own patience, and the process does not wait for the rest.
    """
    found: dict[str, Sequence[Point]] = {}

    def ask(name: str) -> None:
        found[name] = answer(name, probes[name])

    threads = {name: threading.Thread(target=ask, args=(name,), daemon=True) for name in probes}
    began = time.monotonic()
    for thread in threads.values():
        thread.start()
    points: list[Point] = []
    for name, thread in threads.items():
        patience = (longer_s or {}).get(name, patience_s)
        thread.join(max(0.0, began + patience - time.monotonic()))
        silent = warning(name, f"no answer within {patience:g} s", "see what hangs: a file server, a driver, a network")
        points += found.get(name, [silent])
    return points


def answer(name: str, probe: Probe) -> Sequence[Point]:
    """The points of one probe; a warning in their place where it fails."""
    try:
        return [
            Point(check=one.check, state=one.state, found=redact(one.found), remedy=redact(one.remedy))
            for one in probe()
        ]
    except Exception as error:  # noqa: BLE001 - whatever one point runs into, the others are told
        return [warning(name, f"could not be looked at: {redact(str(error)) or type(error).__name__}", "")]


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    state: Literal["said", "absent", "failed", "silent"]
    text: str = ""
    """Standard output; of one that failed, its last words."""


def answer_of(command: Sequence[str], *, patience_s: float = COMMAND_PATIENCE_S, **options: Any) -> Answer:
    """Run a small program that must not ask anything back."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience_s,
            check=False,
            stdin=subprocess.DEVNULL,
            **options,
        )
    except FileNotFoundError:
        return Answer("absent")
    except OSError as error:
        return Answer("failed", error.strerror or type(error).__name__)
    except subprocess.TimeoutExpired:
        return Answer("silent", f"no answer within {patience_s:g} s")
    if done.returncode == 0:
        return Answer("said", done.stdout)
    words = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return Answer("failed", words[-1] if words else f"exit code {done.returncode}")

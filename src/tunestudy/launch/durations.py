"""How long jobs took, from the journal: every attempt counts, also those that failed or were killed."""

from collections import defaultdict
from typing import Any

from tunestudy.records.atomic import read_object
from tunestudy.records.events import last_signs
from tunestudy.records.layout import StudyDir
from tunestudy.report.values import number

Span = tuple[float, float]
"""Begin and end, unix seconds."""

_ENDS = {"job_finished", "job_failed", "job_interrupted"}


def attempts_of(events: list[dict[str, Any]], study: StudyDir) -> dict[str, list[Span]]:
    """Job id → the spans of its attempts in order.

    An attempt without an end (it runs, or its launcher was killed) lasts until its own latest sign of life.
    """
    starts = [event for event in events if event["event"] == "job_started" and _names_an_attempt(event)]
    ends = {_attempt(event): event["t"] for event in events if event["event"] in _ENDS and _names_an_attempt(event)}
    signs = last_signs(events)
    spans = defaultdict(list)
    for event in starts:
        job, started = event["job"], event["t"]
        end = ends.get(_attempt(event))
        if end is None:
            told = read_object(study.job(job).progress_json)
            own = number(told.get("t")) if told.get("attempt") == event["attempt"] else None
            end = own or signs.get(_attempt(event)) or started
        spans[job].append((started, max(started, end)))
    return dict(spans)


def _attempt(event: dict[str, Any]) -> tuple[str, int]:
    return event["job"], event["attempt"]


def _names_an_attempt(event: dict[str, Any]) -> bool:
    """Others were written by someone else."""
    return isinstance(event.get("job"), str) and isinstance(event.get("attempt"), int)


def busy_seconds(spans: list[Span]) -> float:
    """Length of the union of spans: the time during which at least one job ran."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def duration_text(seconds: float | None) -> str:
    """`42 s`, `3:05 min`, `2 h 10`; a dash for None."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02d}"

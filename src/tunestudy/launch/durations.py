"""How long jobs took, from the journal: every attempt counts, also those that failed or were killed."""

from collections import defaultdict
from typing import Any

from tunestudy.launch.outcome import read_object
from tunestudy.records.layout import StudyDir

Span = tuple[float, float]
"""Begin and end, unix seconds."""

_ENDS = {"job_finished", "job_failed", "job_interrupted"}


def attempts_of(events: list[dict[str, Any]], study: StudyDir) -> dict[str, list[Span]]:
    """Job id → the spans of its attempts in order.

    An attempt without an end (it runs, or its launcher was killed) lasts until the job's latest sign of life.
    """
    ends = {(event["job"], event["attempt"]): event["t"] for event in events if event["event"] in _ENDS}
    spans = defaultdict(list)
    for event in events:
        if event["event"] == "job_started":
            job, started = event["job"], event["t"]
            end = ends.get((job, event["attempt"]))
            if end is None:
                end = (read_object(study.job(job).progress_json) or {}).get("t", started)
            spans[job].append((started, max(started, end)))
    return dict(spans)


def busy_seconds(spans: list[Span]) -> float:
    """Length of the union of spans: the time during which at least one job ran."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total

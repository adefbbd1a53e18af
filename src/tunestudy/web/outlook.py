"""When everything will be done, from what is known while it runs."""

from collections import defaultdict
from typing import Any

from tunestudy.report.values import number
from tunestudy.web.board import Board, Seen

_OVER = ("done", "failed", "blocked")


def outlook(board: Board) -> dict[str, Any]:
    """`{"left_s", "slots", "unknown"}`: at least so long, on as many slots as are busy.

    A job that runs tells itself; one that waits takes as long as finished ones of its stage, else as was expected.
    `left_s` is None while some job's time is unknown (`unknown` of them) or nothing runs.
    """
    stages = _seconds_of_stages(board)
    busy = {job.told.get("slot") for job in board.jobs if job.status == "running"}
    left = {job.id: _left(job, board, stages) for job in board.jobs if job.told.get("s") not in _OVER}
    unknown = sum(seconds is None for seconds in left.values())
    if unknown or not busy:
        return {"left_s": None, "slots": len(busy), "unknown": unknown}
    known = {name: seconds or 0.0 for name, seconds in left.items()}
    ends: dict[str, float] = {}
    for job in board.jobs:  # parents first
        if job.id in known:
            ends[job.id] = known[job.id] + max((ends.get(name, 0.0) for name in job.needs), default=0.0)
    return {"left_s": max(sum(known.values()) / len(busy), max(ends.values())), "slots": len(busy), "unknown": 0}


def _seconds_of_stages(board: Board) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for spans in board.journal.spans.values():
        job = board.by_id.get(spans[-1].job)
        ended = spans[-1].end
        if job and ended is not None and spans[-1].outcome == "done":
            found[job.stage].append(ended - spans[-1].start)
    return {stage: sum(times) / len(times) for stage, times in found.items()}


def _left(job: Seen, board: Board, stages: dict[str, float]) -> float | None:
    if job.status == "running" and (eta := number(job.told.get("eta_s"))) is not None:
        return eta
    if job.status == "evaluate":
        return 0.0
    return stages.get(job.stage, board.expected.get(job.id))

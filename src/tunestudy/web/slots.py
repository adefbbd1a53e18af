"""What ran where and when: the attempts of the journal as bars, few enough to draw."""

from collections import defaultdict
from typing import Any

from tunestudy.report.timeline import ENDINGS_LEFT
from tunestudy.web.board import Board
from tunestudy.web.journal import Span

PIXELS = 600
"""Attempts on one slot that lie closer than a pixel of so many become one bar."""
MOST_SLOTS = 64


def timeline(board: Board, now: float) -> dict[str, Any]:
    """`{"start", "end", "slots": [{"name", "bars": [[start, end, outcome, job or how many]]}], "left_out"}`.

    Times in unix seconds. How an attempt ended is as `ended` says.
    """
    by_slot: dict[str, list[Span]] = defaultdict(list)
    for spans in board.journal.spans.values():
        for span in spans:
            by_slot[span.slot].append(span)
    everything = [span for spans in by_slot.values() for span in spans]
    if not everything:
        return {"start": now, "end": now, "slots": [], "left_out": 0}
    start = min(span.start for span in everything)
    last = max(ended(board, span, now)[0] for span in everything)
    pixel = (last - start) / PIXELS
    names = sorted(by_slot)
    slots = [{"name": name, "bars": _bars(board, by_slot[name], now, pixel)} for name in names[:MOST_SLOTS]]
    return {"start": start, "end": last, "slots": slots, "left_out": max(0, len(names) - MOST_SLOTS)}


def ended(board: Board, span: Span, now: float) -> tuple[float, str]:
    """When an attempt ended, in unix seconds, and how; what no launcher told, its job's folder tells, as in the report.

    It lasts until `now` while its job runs, and until the folder changed last when the job is done or has failed. Of a
    lost one, and of one that another followed, nothing tells how long it lasted.
    """
    if span.end is not None:
        return span.end, span.outcome
    job = board.by_id.get(span.job)
    ending = ENDINGS_LEFT.get(job.status, "lost") if job and board.journal.spans[span.job][-1] is span else "lost"
    if job is None or ending == "lost":
        return span.start, "lost"
    changed = max(job.stamp, default=0) / 1e9
    return max(span.start, now if ending == "running" else min(changed, now)), ending


def _bars(board: Board, spans: list[Span], now: float, pixel: float) -> list[list[Any]]:
    bars: list[list[Any]] = []
    for span in sorted(spans, key=lambda span: span.start):
        end, outcome = ended(board, span, now)
        near = bars and span.start - bars[-1][1] < pixel and bars[-1][2] == outcome
        if near and (end - span.start < pixel or bars[-1][1] - bars[-1][0] < pixel):
            wide = bars[-1]
            wide[1], wide[3] = max(wide[1], end), (wide[3] if isinstance(wide[3], int) else 1) + 1
        else:
            bars.append([span.start, end, outcome, span.job])
    return [[round(begin, 1), round(end, 1), *rest] for begin, end, *rest in bars]

"""What ran where and when: the attempts of the journal as bars, few enough to draw."""

from collections import defaultdict
from typing import Any

from tunestudy.web.board import Board
from tunestudy.web.journal import Span

PIXELS = 600
"""Attempts on one slot that lie closer than a pixel of so many become one bar."""
MOST_SLOTS = 64


def timeline(board: Board, now: float) -> dict[str, Any]:
    """`{"start", "end", "slots": [{"name", "bars": [[start, end, outcome, job or how many]]}], "left_out"}`.

    Times in unix seconds. An attempt whose end no launcher told lasts until `now` while its job runs, until its folder
    changed last when the job is done, else it has no length.
    """
    by_slot: dict[str, list[Span]] = defaultdict(list)
    for spans in board.journal.spans.values():
        for span in spans:
            by_slot[span.slot].append(span)
    everything = [span for spans in by_slot.values() for span in spans]
    if not everything:
        return {"start": now, "end": now, "slots": [], "left_out": 0}
    start = min(span.start for span in everything)
    ended = [_end_of(board, span, now) for span in everything]
    pixel = (max(ended) - start) / PIXELS
    names = sorted(by_slot)
    slots = [{"name": name, "bars": _bars(board, by_slot[name], now, pixel)} for name in names[:MOST_SLOTS]]
    return {"start": start, "end": max(ended), "slots": slots, "left_out": max(0, len(names) - MOST_SLOTS)}


def _end_of(board: Board, span: Span, now: float) -> float:
    if span.end is not None:
        return span.end
    job = board.by_id.get(span.job)
    if job is None or board.journal.spans[span.job][-1] is not span:
        return span.start
    changed = max(job.stamp, default=0) / 1e9
    return max(span.start, {"running": now, "done": min(changed, now)}.get(job.status, span.start))


def _outcome_of(board: Board, span: Span, end: float) -> str:
    return board.by_id[span.job].status if end > span.start else "interrupted"


def _bars(board: Board, spans: list[Span], now: float, pixel: float) -> list[list[Any]]:
    bars: list[list[Any]] = []
    for span in sorted(spans, key=lambda span: span.start):
        end = _end_of(board, span, now)
        outcome = span.outcome if span.end is not None else _outcome_of(board, span, end)
        near = bars and span.start - bars[-1][1] < pixel and bars[-1][2] == outcome
        if near and (end - span.start < pixel or bars[-1][1] - bars[-1][0] < pixel):
            last = bars[-1]
            last[1], last[3] = max(last[1], end), (last[3] if isinstance(last[3], int) else 1) + 1
        else:
            bars.append([span.start, end, outcome, span.job])
    return [[round(begin, 1), round(end, 1), *rest] for begin, end, *rest in bars]

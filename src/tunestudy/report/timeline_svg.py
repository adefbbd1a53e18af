"""The timeline as SVG: slots as rows, what was planned above what happened."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tunestudy.report.format import duration
from tunestudy.report.timeline import Bar, Timeline

WIDTH = 900.0
_LEFT, _RIGHT, _TOP, _AXIS, _GAP = 118.0, 12.0, 18.0, 24.0, 26.0
_TALLEST_ROW, _ALL_ROWS = 20.0, 420.0
_LABEL = 13.0
_NARROW = 2.0
"""Bars below this width are drawn together with their neighbours."""
_MOST_TITLES = 400
"""With more blocks than this on a page, those of one colour are one path: a page must stay light."""
_LABEL_LENGTH = 17


@dataclass(frozen=True)
class Block:
    """One or more bars of a row in SVG units."""

    x: float
    width: float
    look: str
    title: str
    count: int = 1
    failed: bool = False
    again: bool = False


def draw(of: Timeline, colours: Mapping[str, str]) -> Markup:
    """`of` as one `<svg>`; `colours`: CSS class by variant."""
    groups = [(name, slots, bars) for name, slots, bars in _groups(of) if bars]
    tall = min(_TALLEST_ROW, _ALL_ROWS / max(1, sum(len(slots) for _, slots, _ in groups)))
    whole = max(of.end - of.start, 1e-3)
    scale = (WIDTH - _LEFT - _RIGHT) / whole
    parts: list[Markup] = []
    rows = [_blocks_of(bars, slots, of.start, scale, colours) for _, slots, bars in groups]
    titled = sum(len(blocks) for row in rows for blocks in row) <= _MOST_TITLES
    y = _TOP
    for (name, slots, _), blocks in zip(groups, rows, strict=True):
        parts += _group(name, slots, blocks, y, tall, titled=titled)
        y += tall * len(slots) + _GAP
    bottom = y - _GAP
    marks = [_mark(of.until, of, scale, bottom, "budget")] if of.until is not None else []
    marks += [_mark(of.now, of, scale, bottom, "now")] if of.now is not None else []
    frame = Markup(
        '<svg class="timeline" viewBox="0 0 {w:g} {h:g}" role="img" aria-label="{text}">{ticks}{parts}{marks}</svg>'
    )
    joined = {"ticks": _ticks(whole, scale, bottom), "parts": Markup("").join(parts), "marks": Markup("").join(marks)}
    return frame.format(w=WIDTH, h=round(bottom + _AXIS, 1), text=f"Timeline, {of.text}", **joined)


def _groups(of: Timeline) -> Iterable[tuple[str, Sequence[str], Sequence[Bar]]]:
    yield "Planned", of.planned_slots, of.planned
    yield "Happened", of.slots, of.happened


def _blocks_of(
    bars: Sequence[Bar], slots: Sequence[str], start: float, scale: float, colours: Mapping[str, str]
) -> list[list[Block]]:
    """By slot."""
    rows: dict[str, list[Bar]] = {slot: [] for slot in slots}
    for bar in bars:
        rows.setdefault(bar.slot, []).append(bar)
    return [_blocks(sorted(row, key=lambda bar: bar.start), start, scale, colours) for row in rows.values()]


def _blocks(row: Sequence[Bar], start: float, scale: float, colours: Mapping[str, str]) -> list[Block]:
    """Bars as blocks; runs of narrow ones are one block, in which no failure is lost."""
    blocks: list[Block] = []
    for bar in row:
        x, width = _LEFT + (bar.start - start) * scale, (bar.end - bar.start) * scale
        colour = colours.get(bar.variants[0], "cx") if len(bar.variants) == 1 else "cx"
        new = Block(
            x,
            width,
            f"{colour} {'planned' if bar.ending == 'planned' else 'did'}{' bad' * (bar.ending in ('failed', 'lost'))}",
            bar.title,
            failed=bar.ending in ("failed", "lost"),
            again=bar.attempt > 1,
        )
        last = blocks[-1] if blocks else None
        if last and width < _NARROW and last.width < _NARROW * max(1, last.count) and x - last.x - last.width < 1:
            blocks[-1] = _joined(last, new)
        else:
            blocks.append(new)
    return blocks


def _joined(one: Block, other: Block) -> Block:
    count = one.count + 1
    kind = one.look.split()[1]
    return Block(
        one.x,
        max(one.x + one.width, other.x + other.width) - one.x,
        one.look if one.look == other.look else f"cx {kind}",
        f"{count} jobs",
        count,
        one.failed or other.failed,
        one.again or other.again,
    )


def _group(
    name: str, slots: Sequence[str], rows: Sequence[Sequence[Block]], y: float, tall: float, *, titled: bool
) -> Iterable[Markup]:
    head = Markup('<text class="head" x="{x:g}" y="{y:.1f}" text-anchor="end">{name}</text>')
    yield head.format(x=_LEFT - 8, y=y - 4, name=name)
    every = max(1, math.ceil(_LABEL / tall))
    for place, slot in enumerate(slots):
        at = y + place * tall
        yield Markup('<rect class="lane" x="{x:g}" y="{y:.1f}" width="{w:g}" height="{h:.1f}"/>').format(
            x=_LEFT, y=at + tall * 0.06, w=WIDTH - _LEFT - _RIGHT, h=tall * 0.88
        )
        if place % every == 0:
            short = slot if len(slot) <= _LABEL_LENGTH else f"…{slot[1 - _LABEL_LENGTH :]}"
            label = Markup('<text x="{x:g}" y="{y:.1f}" text-anchor="end">{short}<title>{slot}</title></text>')
            yield label.format(x=_LEFT - 8, y=at + tall / 2 + 4, short=short, slot=slot)
    placed = [(block, y + place * tall, tall) for place, row in enumerate(rows) for block in row]
    yield from _rectangles(placed) if titled else _paths(placed)
    yield from _signs(placed)


def _rectangles(placed: Sequence[tuple[Block, float, float]]) -> Iterable[Markup]:
    for block, y, tall in placed:
        shape = Markup('<rect class="{look}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}">{title}</rect>')
        title = Markup("<title>{}</title>").format(block.title)
        width = max(block.width - 0.6, 0.8)
        yield shape.format(look=block.look, x=block.x, y=y + tall * 0.12, w=width, h=tall * 0.76, title=title)


def _paths(placed: Sequence[tuple[Block, float, float]]) -> Iterable[Markup]:
    paths: dict[str, list[str]] = {}
    for block, y, tall in placed:
        width, high = max(block.width - 0.4, 0.6), tall * 0.76
        path = f"M{block.x:.1f} {y + tall * 0.12:.1f}h{width:.1f}v{high:.1f}h-{width:.1f}z"
        paths.setdefault(block.look, []).append(path)
    for look, pieces in paths.items():
        yield Markup('<path class="{}" d="{}"/>').format(look, "".join(pieces))


def _signs(placed: Sequence[tuple[Block, float, float]]) -> Iterable[Markup]:
    """A cross at the end of what failed, a bow at the start of what was started again; not twice at one place."""
    crosses: dict[str, None] = {}
    bows: dict[str, None] = {}
    for block, y, tall in placed:
        reach = min(3.2, tall * 0.3)
        top, wide = y + tall / 2 - reach, 2 * reach
        if block.failed:
            x = max(block.x + block.width - reach - 1, block.x + reach) - reach
            crosses[f"M{x:.0f} {top:.1f}l{wide:.1f} {wide:.1f}m0 -{wide:.1f}l-{wide:.1f} {wide:.1f}"] = None
        if block.again:
            bows[f"M{block.x:.0f} {top:.1f}l{1.4 * reach:.1f} {reach:.1f}l-{1.4 * reach:.1f} {reach:.1f}z"] = None
    if crosses:
        yield Markup('<path class="cross" d="{}"/>').format("".join(crosses))
    if bows:
        yield Markup('<path class="again" d="{}"/>').format("".join(bows))


def _mark(at: float | None, of: Timeline, scale: float, bottom: float, word: str) -> Markup:
    assert at is not None, "only what is there is marked"
    x = _LEFT + (at - of.start) * scale
    end = "end" if x > WIDTH - 90 else "middle"
    line = Markup('<line class="mark-{word}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:.1f}"/>')
    label = Markup('<text class="mark-{word}" x="{x:.1f}" y="10" text-anchor="{end}">{word}</text>')
    return line.format(word=word, x=x, top=_TOP - 5, bottom=bottom) + label.format(word=word, x=x, end=end)


def _ticks(whole: float, scale: float, bottom: float) -> Markup:
    """Round times since the start."""
    step = next((one for one in _STEPS_S if whole / one <= 7), math.ceil(whole / 7 / 86400) * 86400.0)
    out: list[Markup] = []
    for number in range(int(whole / step) + 1):
        x = _LEFT + number * step * scale
        words = "start" if number == 0 else _short(number * step)
        anchor = "end" if x > WIDTH - 40 else "middle"
        line = Markup('<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:.1f}"/>')
        text = Markup('<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>')
        out.append(line.format(x=x, top=_TOP, bottom=bottom))
        out.append(text.format(x=x, y=bottom + 16, anchor=anchor, words=words))
    return Markup("").join(out)


def _short(seconds: float) -> str:
    """Without parts that are zero."""
    return str(escape(duration(seconds).removesuffix(" 00 min").removesuffix(" 00 s").removesuffix(" 0 h")))


_STEPS_S = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 30.0),
    *(60.0 * minutes for minutes in (1, 2, 5, 10, 20, 30)),
    *(3600.0 * hours for hours in (1, 2, 3, 6, 12, 24, 48)),
)

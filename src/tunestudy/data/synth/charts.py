"""Bar, line and pie charts, drawn to the pixel."""

import math
from dataclasses import dataclass
from typing import Any

from tunestudy.config.synth import ChartType
from tunestudy.data.synth.canvas import COLOURS, INK, PALE, Canvas, estimated_width, readable_on
from tunestudy.data.synth.chart_questions import Chart, ask
from tunestudy.data.synth.sample import Drawn, Wanted
from tunestudy.data.synth.topics import SHORT, SHORT_AWAY_FROM_CHOICES, TOPICS, Topic, said
from tunestudy.data.synth.values import PIE_MOST, Series, gridded_series, percentages, printed_series

SPACIOUS = 160
"""Images from this size on have a title, labels of whole words, and an axis."""
BAR_SHARE = 0.6
"""Of the room for one item."""


def draw(wanted: Wanted) -> Drawn:
    """A chart with a question.

    truth: chart, title, labels, values, marks (a bar's box, a point's centre, a slice's angles), frame, texts.
    """
    rng, settings = wanted.rng, wanted.settings
    kind = rng.choice(settings.chosen_charts)
    count = wanted.num_items(PIE_MOST if kind == "pie" else None)
    topic = rng.choice([one for one in TOPICS if not (kind == "pie" and one.in_order)])
    labels, are_words = _labels(wanted, topic, kind, count)
    canvas = Canvas(wanted)
    text = max(8, wanted.size // 28)
    series = _series(wanted, kind, len(labels), text)
    title = said(topic.title, wanted.language) if wanted.size >= SPACIOUS else ""
    noun = said(topic.noun, wanted.language) if are_words else ""
    chart = Chart(kind, tuple(labels), series, noun, topic.korean_which)
    colours = rng.sample(COLOURS, len(labels))
    top = _title(canvas, title, text)
    if kind == "pie":
        shown = _pie(canvas, chart, colours, text, top)
    else:
        shown = _axes(canvas, chart, colours, text, top, print_values=settings.print_values)
    asked = ask(wanted, chart)
    truth = {
        "chart": kind,
        "title": title,
        "labels": labels,
        "values": list(series.values),
        "colours": [list(colour) for colour in colours],
        "texts": canvas.texts,
        **shown,
    }
    return Drawn(canvas.image, asked, truth)


def _labels(wanted: Wanted, topic: Topic, kind: ChartType, count: int) -> tuple[list[str], bool]:
    """Labels of whole words where they fit below each other's neighbour, else single letters."""
    room = wanted.size * (0.3 if kind == "pie" else 0.9 / count)
    names = topic.names(wanted.language)
    fitting = [name for name in names if wanted.size >= SPACIOUS and estimated_width(name, 8) < 0.92 * room]
    if len(fitting) < count or (topic.in_order and len(fitting) < len(names)):
        letters = SHORT[wanted.language]
        if wanted.language == "en" and wanted.settings.answer_form == "choice":
            letters = SHORT_AWAY_FROM_CHOICES
        return list(letters[:count]), False
    if topic.in_order:
        start = wanted.rng.randrange(len(names) - count + 1)
        return names[start : start + count], True
    return wanted.rng.sample(fitting, count), True


def _series(wanted: Wanted, kind: ChartType, count: int, text: int) -> Series:
    if kind == "pie":
        return percentages(wanted.rng, count)
    if not wanted.settings.print_values:
        return gridded_series(wanted.rng, count)
    room = 0.9 * wanted.size / count
    digits = 3 if room > estimated_width("000", text) + 2 else 2
    return printed_series(wanted.rng, count, digits)


def _title(canvas: Canvas, title: str, text: int) -> int:
    """Write the title; returns where the rest may begin."""
    if not title:
        return 1
    pixels = canvas.fitting([title], 0.9 * canvas.size, round(1.3 * text))
    _, _, _, bottom = canvas.write(canvas.size / 2, 0.4 * text, title, pixels, anchor="ma")
    return bottom + text // 3


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where bars and points stand: x from `left` to `right`, y from `base` up by `height` for the axis' top."""

    left: int
    right: int
    base: int
    height: int
    top_value: int
    count: int

    def middle(self, item: int) -> float:
        return self.left + (self.right - self.left) * (item + 0.5) / self.count

    def pixels(self, value: float) -> int:
        return round(self.height * value / self.top_value)


def _axes(
    canvas: Canvas,
    chart: Chart,
    colours: list[tuple[int, int, int]],
    text: int,
    top: int,
    *,
    print_values: bool,
) -> dict[str, Any]:
    """Axes, labels, and bars or points; values above them when they are printed."""
    series, size = chart.series, canvas.size
    has_axis = size >= SPACIOUS or not print_values
    ticks = list(range(0, series.top + 1, series.step)) if has_axis else []
    left = 2 + (max(canvas.width(str(tick), text) for tick in ticks) + 3 if ticks else 0)
    slot = (size - 2 - left) / len(chart.labels)
    labels = canvas.fitting(chart.labels, slot - 2, text)
    base = size - round(1.5 * text) - 3
    above = text + 3 if print_values else max(2, text // 2)
    frame = _Frame(left, size - 2, base, base - top - above, series.top, len(chart.labels))
    for tick in ticks:
        y = base - frame.pixels(tick)
        canvas.pen.line([(left, y), (frame.right, y)], fill=PALE)
        canvas.write(left - 3, y, str(tick), text, anchor="rm")
    canvas.pen.line([(left, base), (frame.right, base)], fill=INK)
    for item, label in enumerate(chart.labels):
        canvas.write(frame.middle(item), base + 2, label, labels, anchor="ma")
    marks = _bars(canvas, chart, frame, colours) if chart.kind == "bar" else _line(canvas, chart, frame, colours[0])
    if print_values:
        _print_values(canvas, chart, frame, canvas.fitting([str(value) for value in series.values], slot - 2, text))
    where = {"left": frame.left, "right": frame.right, "base": base, "height": frame.height, "top_value": series.top}
    return {"marks": marks, "frame": where}


def _bars(canvas: Canvas, chart: Chart, frame: _Frame, colours: list[tuple[int, int, int]]) -> list[list[int]]:
    """Boxes, right and bottom just outside; a bar's height in pixels is its value's."""
    half = BAR_SHARE * (frame.right - frame.left) / len(chart.labels) / 2
    boxes = []
    for item, value in enumerate(chart.series.values):
        middle = frame.middle(item)
        box = [round(middle - half), frame.base - frame.pixels(value), round(middle + half), frame.base]
        canvas.pen.rectangle([box[0], box[1], box[2] - 1, box[3] - 1], fill=colours[item])
        boxes.append(box)
    return boxes


def _line(canvas: Canvas, chart: Chart, frame: _Frame, colour: tuple[int, int, int]) -> list[list[int]]:
    """Centres of the points."""
    points = [
        (round(frame.middle(item)), frame.base - frame.pixels(value)) for item, value in enumerate(chart.series.values)
    ]
    canvas.pen.line(points, fill=colour, width=max(1, canvas.size // 180))
    radius = max(1, canvas.size // 110)
    for x, y in points:
        canvas.pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return [[x, y] for x, y in points]


def _print_values(canvas: Canvas, chart: Chart, frame: _Frame, pixels: int) -> None:
    """A bar's value above it; a point's on the side that its lines leave free, above where there is no room below."""
    values = chart.series.values
    if chart.kind == "bar":
        for item, value in enumerate(values):
            y = frame.base - frame.pixels(value) - 1
            canvas.write(frame.middle(item), y, str(value), pixels, anchor="mb")
        return
    lift = max(2, canvas.size // 90)
    for item, value in enumerate(values):
        y = frame.base - frame.pixels(value)
        beside = [*values[max(0, item - 1) : item], *values[item + 1 : item + 2]]
        below = 2 * sum(other > value for other in beside) > len(beside) and y + lift + 1.5 * pixels < frame.base
        place, anchor = (y + lift + 1, "ma") if below else (y - lift, "mb")
        canvas.write(frame.middle(item), place, str(value), pixels, anchor=anchor, halo=1)


def _pie(canvas: Canvas, chart: Chart, colours: list[tuple[int, int, int]], text: int, top: int) -> dict[str, Any]:
    """Slices clockwise from twelve o'clock, each with its percentage; the legend to the right names the colours."""
    size = canvas.size
    radius = min(round(0.3 * size), (size - top) // 2 - 2)
    x, y = radius + max(2, size // 60), top + (size - top) // 2
    end, angles = -90.0, []
    for value, colour in zip(chart.series.values, colours, strict=True):
        start, end = end, end + 3.6 * value
        canvas.pen.pieslice([x - radius, y - radius, x + radius, y + radius], start, end, fill=colour, outline="white")
        angles.append([round(start, 3), round(end, 3)])
    inside = size >= 224
    if inside:
        for value, colour, (start, stop) in zip(chart.series.values, colours, angles, strict=True):
            turn = math.radians((start + stop) / 2)
            place = x + 0.68 * radius * math.cos(turn), y + 0.68 * radius * math.sin(turn)
            canvas.write(*place, f"{value}%", round(0.9 * text), anchor="mm", colour=readable_on(colour))
    _legend(canvas, chart, colours, text, x + radius, y, with_values=not inside)
    return {"marks": angles, "frame": {"x": x, "y": y, "radius": radius}}


def _legend(
    canvas: Canvas,
    chart: Chart,
    colours: list[tuple[int, int, int]],
    text: int,
    left: int,
    middle: int,
    *,
    with_values: bool,
) -> None:
    entries = [
        f"{label} {value}%" if with_values else label
        for label, value in zip(chart.labels, chart.series.values, strict=True)
    ]
    swatch = max(5, round(0.8 * text))
    x = left + max(3, canvas.size // 40)
    pixels = canvas.fitting(entries, canvas.size - x - swatch - max(4, text // 2), text)
    row = round(1.6 * text)
    y = middle - row * len(entries) / 2 + row / 2
    for entry, colour in zip(entries, colours, strict=True):
        top = round(y - swatch / 2)
        canvas.pen.rectangle([x, top, x + swatch - 1, top + swatch - 1], fill=colour)
        canvas.write(x + swatch + max(2, text // 3), y, entry, pixels, anchor="lm")
        y += row

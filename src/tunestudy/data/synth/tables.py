"""Tables of whole numbers, one row per name."""

from tunestudy.data.synth.canvas import INK, PALE, Canvas
from tunestudy.data.synth.sample import Drawn, Wanted
from tunestudy.data.synth.table_questions import Table, ask
from tunestudy.data.synth.topics import TABLE_TOPICS, said

HEAD_SHADE = (232, 236, 243)


def draw(wanted: Wanted) -> Drawn:
    """A table with a question or a statement.

    truth: title, header, rows (texts, as read), boxes (of every cell), texts.
    """
    rng, language = wanted.rng, wanted.language
    topic = rng.choice(TABLE_TOPICS)
    count = wanted.num_items()
    columns = rng.sample(topic.columns, 2 if wanted.size < 160 else 3)
    names = rng.sample(topic.names(language), count)
    numbers = [rng.sample(range(low, high + 1), count) for _, low, high in columns]
    table = Table(
        topic,
        tuple(names),
        tuple(said(head, language) for head, _, _ in columns),
        tuple(tuple(column) for column in numbers),
    )
    header = [said(topic.noun, language).capitalize(), *table.heads]
    rows = [[name, *(str(column[row]) for column in numbers)] for row, name in enumerate(names)]
    canvas = Canvas(wanted)
    boxes = _draw_grid(canvas, said(topic.title, language), [header, *rows])
    asked = ask(wanted, table)
    truth = {
        "title": said(topic.title, language),
        "header": header,
        "rows": rows,
        "boxes": boxes,
        "texts": canvas.texts,
    }
    return Drawn(canvas.image, asked, truth)


def _draw_grid(canvas: Canvas, title: str, rows: list[list[str]]) -> list[list[list[int]]]:
    """Draw title, lines and cells; returns each cell's box."""
    size = canvas.size
    margin = max(2, size // 32)
    with_title = size >= 160
    pitch = min((size - 2 * margin) / (len(rows) + with_title), size / 9)
    text = max(8, min(round(pitch / 1.6), size // 22))
    top = float(margin)
    if with_title:
        canvas.write(size / 2, top + pitch / 2, title, canvas.fitting([title], size, round(1.2 * text)), anchor="mm")
        top += pitch
    cell = (size - 2 * margin) / len(rows[0])
    pixels = canvas.fitting([word for row in rows for word in row], cell - 4, text)
    across = [round(margin + number * cell) for number in range(len(rows[0]) + 1)]
    down = [round(top + number * pitch) for number in range(len(rows) + 1)]
    canvas.pen.rectangle([across[0], down[0], across[-1], down[1]], fill=HEAD_SHADE)
    for x in across:
        canvas.pen.line([(x, down[0]), (x, down[-1])], fill=PALE)
    for y in down:
        canvas.pen.line([(across[0], y), (across[-1], y)], fill=INK if y in (down[0], down[1], down[-1]) else PALE)
    for row, y in zip(rows, down, strict=False):
        for word, x in zip(row, across, strict=False):
            canvas.write(x + cell / 2, y + pitch / 2, word, pixels, anchor="mm")
    return [[[across[x], down[y], across[x + 1], down[y + 1]] for x in range(len(rows[0]))] for y in range(len(rows))]

"""Pages of text, receipts and forms."""

from typing import Any

from tunestudy.data.synth.canvas import INK, PALE, Canvas, estimated_width
from tunestudy.data.synth.fields import Entry, form, price_again, receipt
from tunestudy.data.synth.korean import Word
from tunestudy.data.synth.sample import AnswerType, Asked, Drawn, Language, Wanted
from tunestudy.data.synth.sentences import sentence

READ_ALL: dict[Language, tuple[str, ...]] = {
    "en": ("Read all the text in the image.", "Write down the text of this page, line by line."),
    "ko": ("이미지에 있는 글을 모두 읽어 주세요.", "이 문서의 글을 줄마다 그대로 옮겨 적어 주세요."),
}
READ_LINE: dict[Language, tuple[str, ...]] = {
    "en": ("What is written on line {n}?", "Read line {n} of the text."),
    "ko": ("위에서 {n}번째 줄에 적힌 글은 무엇입니까?", "{n}번째 줄을 읽어 주세요."),
}
FIELD: dict[Language, tuple[str, ...]] = {
    "en": ("What is the {name}?", "What does the document give as the {name}?"),
    "ko": ("문서에 적힌 {name:은} 무엇입니까?", "'{name}' 칸에는 무엇이라고 적혀 있습니까?"),
}
PRICE: dict[Language, tuple[str, ...]] = {
    "en": ("What is the price of the {name}?", "How much does the {name} cost?"),
    "ko": ("{name}의 가격은 얼마입니까?", "{name:은} 얼마입니까?"),
}


def draw(wanted: Wanted) -> Drawn:
    """A page with a question.

    truth: layout (page, receipt or form), lines (a page's, in reading order), fields (name and value of the others),
    texts (every text with its box).
    """
    return _sheet(wanted) if wanted.task == "field" else _page(wanted)


def _page(wanted: Wanted) -> Drawn:
    rng, language = wanted.rng, wanted.language
    count = wanted.num_items()
    pitch = min(wanted.size / (count + 0.5), max(12.0, wanted.size / 12))
    text = max(8, min(round(pitch / 1.45), wanted.size // 18))
    lines = _lines(wanted, count + wanted.settings.num_choices, text)
    shown, strangers = lines[:count], lines[count:]
    canvas = Canvas(wanted)
    margin = max(2, wanted.size // 24)
    pixels = canvas.fitting(shown, wanted.size - 2 * margin, text)
    top = rng.uniform(0.3, 0.8) * max(0.0, wanted.size - count * pitch - 2) + 1
    for number, line in enumerate(shown):
        canvas.write(margin, top + number * pitch, line, pixels)
    if wanted.task == "ocr":
        asked = Asked(rng.choice(READ_ALL[language]), "\n".join(shown), "ocr", {})
    else:
        place = rng.randrange(count)
        question = rng.choice(READ_LINE[language]).format(n=place + 1)
        others = [line for line in shown if line != shown[place]]
        rng.shuffle(others)
        asked = Asked(question, shown[place], "text", {"line": place + 1}, (*others, *strangers))
    return Drawn(canvas.image, asked, {"layout": "page", "lines": shown, "texts": canvas.texts})


def _lines(wanted: Wanted, count: int, text: int) -> list[str]:
    """Running text cut into lines that fit and all differ; a line that came before is cut one word shorter."""
    room = wanted.size - 2 * max(2, wanted.size // 24)
    lines: list[str] = []
    words: list[str] = []
    while len(lines) < count:
        if not words:
            words = sentence(wanted.rng, wanted.language)
        line = words.pop(0)
        while words and estimated_width(f"{line} {words[0]}", text) <= room:
            line = f"{line} {words.pop(0)}"
        if line in lines:
            line, _, last = line.rpartition(" ")
            words = [last, *words]
        if line and line not in lines:
            lines.append(line)
        else:
            words = []
    return lines


def _sheet(wanted: Wanted) -> Drawn:
    """A receipt or a form: names on the left, values on the right."""
    rng, language = wanted.rng, wanted.language
    layout = rng.choice(("receipt", "form"))
    title, entries = (receipt if layout == "receipt" else form)(rng, language, wanted.num_items())
    canvas = Canvas(wanted)
    _draw_sheet(canvas, title, entries)
    priced = [entry for entry in entries if entry.is_price]
    pool = priced if priced and rng.random() < 0.5 else entries
    entry = rng.choice(pool)
    wordings = PRICE if entry.is_price else FIELD
    question = rng.choice(wordings[language]).format(name=Word(entry.name if language == "ko" else entry.name.lower()))
    wrong = _wrong(wanted, entry, entries)
    answer_type: AnswerType = "number" if entry.is_amount else "text"
    asked = Asked(question, entry.value, answer_type, {"name": entry.name}, wrong)
    truth: dict[str, Any] = {
        "layout": layout,
        "title": title,
        "fields": [[one.name, one.value] for one in entries],
        "texts": canvas.texts,
    }
    return Drawn(canvas.image, asked, truth)


def _wrong(wanted: Wanted, entry: Entry, entries: list[Entry]) -> tuple[str, ...]:
    """Other values of the sheet of the same sort, then others that the field could have had."""
    same = [one.value for one in entries if one.sort == entry.sort and one.value != entry.value]
    wanted.rng.shuffle(same)
    while len(set(same)) < 5:
        again = price_again(wanted.rng, entry.value, wanted.language) if entry.is_amount else entry.again(wanted.rng)
        if again != entry.value and again not in same:
            same.append(again)
    return tuple(same)


def _draw_sheet(canvas: Canvas, title: str, entries: list[Entry]) -> None:
    size = canvas.size
    margin = max(4, size // 16)
    pitch = min((size - 4) / (len(entries) + 1.8), size / 9)
    text = max(8, min(round(pitch / 1.5), size // 20))
    longest = max(entries, key=lambda entry: estimated_width(entry.name + entry.value, text))
    room = size - 2 * margin
    pixels = canvas.fitting(
        [f"{longest.name}  {longest.value}", *(f"{e.name}  {e.value}" for e in entries)], room, text
    )
    heading = canvas.fitting([title], room, round(1.25 * text))
    canvas.write(size / 2, 2 + pitch / 4, title, heading, anchor="ma")
    y = 2 + 1.6 * pitch
    canvas.pen.line([(margin, y - 2), (size - margin, y - 2)], fill=INK)
    for entry in entries:
        canvas.write(margin, y + pitch / 2, entry.name, pixels, anchor="lm")
        canvas.write(size - margin, y + pitch / 2, entry.value, pixels, anchor="rm")
        y += pitch
        canvas.pen.line([(margin, y - 1), (size - margin, y - 1)], fill=INK if entry.closes else PALE)

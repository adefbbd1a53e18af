"""Pages, receipts and forms: what is asked for is what is written."""

import re
from typing import Any

import pytest

from tunestudy.data.synth.sample import LETTERS


def amount(text: str) -> int:
    """Hundredths, or won."""
    return int(re.sub(r"[^0-9]", "", text))


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("size", [56, 112, 224])
def test_pages_are_read_line_by_line(draw: Any, language: str, size: int) -> None:
    for one in draw(30, kind="document", tasks=("ocr", "line"), language=language, image_size=size):
        truth = one.truth
        assert len(set(truth["lines"])) == len(truth["lines"])
        written = sorted(truth["texts"], key=lambda text: text["box"][1])
        assert [text["text"] for text in written] == truth["lines"]
        if truth["task"] == "ocr":
            assert one.answer == "\n".join(truth["lines"]) and one.answer_type == "ocr"
        else:
            number = int(re.findall(r"\d+", one.question)[0])
            assert one.answer == truth["lines"][number - 1] and number == truth["asked"]["line"]


@pytest.mark.parametrize("language", ["en", "ko"])
def test_fields_have_one_value_each(draw: Any, language: str) -> None:
    for one in draw(60, kind="document", tasks=("field",), language=language, image_size=224):
        fields = dict(one.truth["fields"])
        assert len(fields) == len(one.truth["fields"]), "a name twice"
        name = one.truth["asked"]["name"]
        assert one.answer == fields[name]
        assert name.lower() in one.question.lower()
        written = {text["text"] for text in one.truth["texts"]}
        assert {*fields, *fields.values(), one.truth["title"]} == written


def test_receipts_add_up(draw: Any) -> None:
    receipts = 0
    for language in ("en", "ko"):
        for one in draw(60, kind="document", tasks=("field",), language=language, image_size=224):
            if one.truth["layout"] != "receipt":
                continue
            receipts += 1
            *rest, total = one.truth["fields"]
            prices = [amount(value) for name, value in rest if re.fullmatch(r"[\d,]+원|\d+\.\d\d", value)]
            assert amount(total[1]) == sum(prices) and prices
    assert receipts > 30


def test_wrong_choices_look_like_the_right_one(draw: Any) -> None:
    """A price among names, or a date among numbers, would be found without looking."""

    def form_of(text: str) -> str:
        return re.sub(r"[A-Z]", "X", re.sub(r"\d+", "0", text))

    for one in draw(60, kind="document", tasks=("field",), image_size=224, answer_form="choice"):
        right = one.choices[LETTERS.index(one.answer)]
        if any(letter.isdigit() for letter in right):
            assert {form_of(text) for text in one.choices} == {form_of(right)}

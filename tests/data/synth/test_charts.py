"""Answers worked out again from the values, and values measured again from the pixels."""

import math
import re
from typing import Any

import pytest

from tunestudy.data.synth.sample import LETTERS, SynthSample

WHITE = (255, 255, 255)


def answer_from(truth: dict[str, Any]) -> str:
    """What the question of this task must be answered with, from labels and values."""
    by_label = dict(zip(truth["labels"], truth["values"], strict=True))
    asked, task = truth["asked"], truth["task"]
    if task == "value":
        return str(by_label[asked["label"]])
    if task in ("argmax", "argmin"):
        ordered = sorted(by_label, key=lambda label: by_label[label])
        return ordered[-1] if task == "argmax" else ordered[0]
    if task == "count":
        assert asked["threshold"] not in truth["values"]
        return str(sum(value > asked["threshold"] for value in truth["values"]))
    difference = by_label[asked["first"]] - by_label[asked["second"]]
    if task == "difference":
        assert difference > 0
        return str(difference)
    return "yes" if difference > 0 else "no"


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize(
    "options", [{"image_size": 56}, {"image_size": 224}, {"image_size": 224, "print_values": False}]
)
def test_answers_follow_from_the_values(draw: Any, language: str, options: dict[str, Any]) -> None:
    for one in draw(80, kind="chart", language=language, **options):
        truth = one.truth
        assert len(set(truth["values"])) == len(truth["labels"]) == len(set(truth["labels"]))
        expected = answer_from(truth)
        assert (
            one.answer == {"yes": one.choices[0], "no": one.choices[-1]}.get(expected, expected)
            if one.choices
            else (one.answer == expected)
        )
        for key in ("label", "first", "second"):
            if key in truth["asked"]:
                assert truth["asked"][key] in one.question
        if truth["task"] == "count":
            assert re.findall(r"\d+", one.question) == [str(truth["asked"]["threshold"])]


def test_choices_hold_the_answer_once_and_no_option_letter_is_a_label(draw: Any) -> None:
    for one in draw(80, kind="chart", image_size=56, answer_form="choice"):
        expected = answer_from(one.truth)
        assert [text for text in one.choices if text == expected] == [one.choices[LETTERS.index(one.answer)]]
        assert not set(one.truth["labels"]) & set(LETTERS)


def height_of(one: SynthSample, number: int) -> int:
    """Pixels of the bar's colour in its middle column."""
    left, _, right, _ = one.truth["marks"][number]
    colour, x = tuple(one.truth["colours"][number]), (left + right) // 2
    return sum(one.image.getpixel((x, y)) == colour for y in range(one.image.height))


@pytest.mark.parametrize("size", [56, 112, 336])
@pytest.mark.parametrize("printed", [True, False])
def test_bars_are_as_high_as_their_values(draw: Any, size: int, printed: bool) -> None:
    if not printed and size < 112:
        return
    for one in draw(15, kind="chart", charts=("bar",), image_size=size, print_values=printed):
        frame = one.truth["frame"]
        for number, value in enumerate(one.truth["values"]):
            assert abs(height_of(one, number) - frame["height"] * value / frame["top_value"]) <= 1
        heights = [height_of(one, number) for number in range(len(one.truth["values"]))]
        assert len(set(heights)) == len(heights), "two bars look the same"
        best = sorted(heights)[-2:]
        assert best[1] - best[0] >= 2, "the highest bar cannot be told"


def test_points_stand_at_their_values_and_unprinted_ones_on_grid_lines(draw: Any) -> None:
    for one in draw(15, kind="chart", charts=("line",), image_size=224, print_values=False):
        frame, colour = one.truth["frame"], tuple(one.truth["colours"][0])
        ticks = {int(text["text"]) for text in one.truth["texts"] if text["text"].isdigit()}
        for (x, y), value in zip(one.truth["marks"], one.truth["values"], strict=True):
            assert one.image.getpixel((x, y)) == colour
            assert abs(frame["base"] - y - frame["height"] * value / frame["top_value"]) <= 1
            assert value in ticks


def test_slices_have_the_angle_of_their_share(draw: Any) -> None:
    for one in draw(15, kind="chart", charts=("pie",), image_size=224):
        assert sum(one.truth["values"]) == 100
        frame, size = one.truth["frame"], one.image.width
        counted = dict.fromkeys(map(tuple, one.truth["colours"]), 0)
        for turn in range(900):
            angle = math.radians(turn * 0.4)
            x, y = (
                frame["x"] + 0.4 * frame["radius"] * math.cos(angle),
                frame["y"] + 0.4 * frame["radius"] * math.sin(angle),
            )
            assert 0 <= x < size and 0 <= y < size
            pixel = one.image.getpixel((int(x + 0.5), int(y + 0.5)))
            if pixel in counted:
                counted[pixel] += 1
        seen = sum(counted.values())
        assert seen > 750, "slices are hidden"
        for colour, value in zip(one.truth["colours"], one.truth["values"], strict=True):
            assert abs(100 * counted[tuple(colour)] / seen - value) < 2.5


def test_printed_values_are_those_of_the_chart(draw: Any) -> None:
    for one in draw(60, kind="chart", image_size=224):
        written = {text["text"].removesuffix("%") for text in one.truth["texts"]}
        assert {str(value) for value in one.truth["values"]} <= written
        assert set(one.truth["labels"]) <= written
        assert one.truth["title"] in written

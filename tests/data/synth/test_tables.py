"""Questions answered again from the rows of the table, as they are written in it."""

import re
from typing import Any

import pytest

from tunestudy.data.synth.sample import TRUE_FALSE, SynthSample


def column_of(truth: dict[str, Any]) -> dict[str, int]:
    """Row head → number, of the column that the question is about."""
    place = truth["header"].index(truth["asked"]["column"])
    return {row[0]: int(row[place]) for row in truth["rows"]}


def answer_from(truth: dict[str, Any]) -> str:
    numbers, asked = column_of(truth), truth["asked"]
    if truth["task"] == "lookup":
        return str(numbers[asked["row"]])
    if truth["task"] == "superlative":
        best = (max if asked["which"] == "highest" else min)(numbers.values())
        [name] = [name for name, number in numbers.items() if number == best]
        return name
    if truth["task"] == "count":
        return str(sum(number > asked["threshold"] for number in numbers.values()))
    return str(sum(numbers[name] for name in asked["rows"]))


def holds(one: SynthSample) -> bool:
    """Whether the statement is true, from its own words and the table."""
    numbers, asked = column_of(one.truth), one.truth["asked"]
    if asked["claim"] == "lookup":
        return numbers[asked["name"]] == int(asked["v"])
    if asked["claim"] == "comparison":
        return numbers[asked["a"]] > numbers[asked["b"]]
    if asked["claim"] == "highest":
        return all(numbers[asked["name"]] >= number for number in numbers.values())
    return sum(number > int(asked["t"]) for number in numbers.values()) == int(asked["v"])


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("size", [112, 224])
def test_answers_follow_from_the_rows(draw: Any, language: str, size: int) -> None:
    for one in draw(60, kind="table", language=language, image_size=size):
        asked = one.truth["asked"]
        assert asked["column"] in one.question
        names = [asked[key] for key in ("row", "name", "a", "b") if key in asked]
        assert all(name in one.question for name in names)
        if one.truth["task"] == "statement":
            assert one.answer == TRUE_FALSE[one.language][0 if holds(one) else 1]
            numbers = [asked[key] for key in ("v", "t") if key in asked]
            assert sorted(re.findall(r"\d+", one.question)) == sorted(numbers)
        else:
            assert one.answer == answer_from(one.truth)


def test_every_cell_is_written_in_its_box(draw: Any) -> None:
    for one in draw(20, kind="table", language="both", image_size=224):
        for row, boxes in zip([one.truth["header"], *one.truth["rows"]], one.truth["boxes"], strict=True):
            for word, (left, top, right, bottom) in zip(row, boxes, strict=True):
                inside = [
                    text["text"]
                    for text in one.truth["texts"]
                    if left <= text["box"][0] and text["box"][2] <= right and top <= text["box"][1] <= bottom
                ]
                assert inside == [word]


def test_a_number_occurs_once_in_its_column(draw: Any) -> None:
    for one in draw(40, kind="table", image_size=224):
        for column in zip(*one.truth["rows"], strict=True):
            assert len(set(column)) == len(column)

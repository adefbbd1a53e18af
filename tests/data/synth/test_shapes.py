"""Relations worked out again from centres and radii, and shapes found again in the pixels."""

from typing import Any

import pytest

from tunestudy.data.synth.sample import LETTERS, YES_NO, SynthSample
from tunestudy.data.synth.shape_words import COLOURS, SHAPES, SIDES, spoken
from tunestudy.data.synth.topics import said

Thing = dict[str, Any]


def find(one: SynthSample, named: list[str]) -> Thing:
    """The one thing of this shape and colour."""
    [thing] = [t for t in one.truth["things"] if [t["shape"], t["colour"]] == named]
    return thing


def side(first: Thing, second: Thing) -> str:
    """Where the first lies; clear only when one distance is at least twice the other."""
    right, down = first["x"] - second["x"], first["y"] - second["y"]
    assert max(abs(right), abs(down)) >= 2 * min(abs(right), abs(down)), (first, second)
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "below" if down > 0 else "above"


def open_answer(one: SynthSample) -> str:
    things, asked, language = one.truth["things"], one.truth["asked"], one.language
    if one.truth["task"] == "position":
        return said(SIDES[side(find(one, asked["first"]), find(one, asked["second"]))], language)
    if one.truth["task"] == "count":
        return str(sum(thing["shape"] == asked["shape"] for thing in things))
    if one.truth["task"] == "colour":
        [thing] = [thing for thing in things if thing["shape"] == asked["shape"]]
        return said(COLOURS[thing["colour"]].alone, language)
    if one.truth["task"] == "size":
        *_, second, largest = sorted(things, key=lambda thing: thing["radius"])
        assert largest["radius"] >= 1.4 * second["radius"]
        return spoken(largest["shape"], largest["colour"], language)
    return spoken(things[-1]["shape"], things[-1]["colour"], language)


def claim_holds(one: SynthSample) -> bool:
    things, asked = one.truth["things"], one.truth["asked"]
    if asked["claim"] == "number":
        return sum(thing["shape"] == asked["shape"] for thing in things) == asked["number"]
    if asked["claim"] == "exists":
        return any((thing["shape"], thing["colour"]) == (asked["shape"], asked["colour"]) for thing in things)
    first, second = find(one, asked["first"]), find(one, asked["second"])
    if asked["claim"] == "side":
        return side(first, second) == asked["side"]
    if asked["claim"] == "bigger":
        return bool(first["radius"] > second["radius"])
    return things.index(first) > things.index(second)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("size", [28, 56, 224])
def test_answers_follow_from_the_scene(draw: Any, language: str, size: int) -> None:
    for one in draw(250, kind="shapes", language=language, image_size=size):
        if one.truth["task"] == "claim":
            assert one.answer == YES_NO[one.language][0 if claim_holds(one) else 1]
        else:
            assert one.answer == open_answer(one)


def test_the_answer_is_the_only_right_option(draw: Any) -> None:
    for one in draw(250, kind="shapes", image_size=56, answer_form="choice"):
        right = open_answer(one)
        assert one.choices.count(right) == 1 and one.choices[LETTERS.index(one.answer)] == right


@pytest.mark.parametrize("size", [28, 112])
def test_shapes_show_their_colour_inside_the_image_and_apart(draw: Any, size: int) -> None:
    for one in draw(150, kind="shapes", image_size=size, tasks=("position", "count", "colour", "size", "claim")):
        things = one.truth["things"]
        covered = one.truth["asked"].get("claim") == "in front"
        for number, thing in enumerate(things):
            x, y, radius = thing["x"], thing["y"], thing["radius"]
            assert x - radius >= 0 and x + radius < size and y - radius >= 0 and y + radius < size
            if covered:
                continue
            assert one.image.getpixel((x, y)) == COLOURS[thing["colour"]].rgb
            for other in things[:number]:
                apart = max(abs(x - other["x"]), abs(y - other["y"]))
                assert apart > radius + other["radius"], "shapes touch"


def test_the_shape_in_front_covers_the_other_which_stays_in_sight(draw: Any) -> None:
    for size in (28, 112):
        for one in draw(60, kind="shapes", tasks=("depth",), image_size=size):
            behind, front = one.truth["things"]
            middle = (behind["x"] + front["x"]) // 2, (behind["y"] + front["y"]) // 2
            assert one.image.getpixel(middle) == COLOURS[front["colour"]].rgb
            colours = {colour: count for count, colour in one.image.getcolors()}
            seen = colours[COLOURS[behind["colour"]].rgb]
            assert seen > 0.12 * (2 * behind["radius"]) ** 2, "too little of the hindmost shape is left"


def test_every_shape_and_colour_occurs(draw: Any) -> None:
    samples = draw(250, kind="shapes", language="en", image_size=56)
    assert {thing["shape"] for one in samples for thing in one.truth["things"]} == set(SHAPES)
    assert {thing["colour"] for one in samples for thing in one.truth["things"]} == set(COLOURS)

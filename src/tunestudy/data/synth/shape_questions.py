"""Scenes made for a question: first what is to be answered, then shapes of which it is true."""

from math import ceil
from typing import Any

from tunestudy.data.synth.korean import Word
from tunestudy.data.synth.sample import YES_NO, Asked, Language, Wanted, near_counts, yes_or_no
from tunestudy.data.synth.scene import (
    FLAT,
    IN_FRONT,
    OVERLAP,
    Thing,
    distinct_kinds,
    grid_side,
    place,
    some_cells,
)
from tunestudy.data.synth.shape_words import COLOURS, PLURALS, SHAPES, SIDES, spoken
from tunestudy.data.synth.topics import said

Scene = tuple[list[Thing], Asked]
STEPS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}

PHRASES: dict[Language, dict[str, str]] = {
    "en": {
        "position": "Where is the {a} seen from the {b}: left, right, above or below?",
        "count": "How many {shapes} are there?",
        "colour": "What colour is the {shape}?",
        "largest": "Which shape is the largest?",
        "depth": "Which shape is in front, the {a} or the {b}?",
        "left": "Is the {a} to the left of the {b}?",
        "right": "Is the {a} to the right of the {b}?",
        "above": "Is the {a} above the {b}?",
        "below": "Is the {a} below the {b}?",
        "number": "Is the number of {shapes} {n}?",
        "exists": "Is there a {a} in the image?",
        "bigger": "Is the {a} larger than the {b}?",
        "in front": "Is the {a} in front of the {b}?",
    },
    "ko": {
        "position": "{a:은} {b}의 어느 쪽에 있습니까? 왼쪽, 오른쪽, 위쪽, 아래쪽 중에서 고르세요.",
        "count": "{shape:은} 모두 몇 개입니까?",
        "colour": "{shape:은} 무슨 색입니까?",
        "largest": "가장 큰 도형은 무엇입니까?",
        "depth": "{a:과} {b} 중에서 앞에 있는 것은 무엇입니까?",
        "left": "{a:은} {b}의 왼쪽에 있습니까?",
        "right": "{a:은} {b}의 오른쪽에 있습니까?",
        "above": "{a:은} {b}의 위쪽에 있습니까?",
        "below": "{a:은} {b}의 아래쪽에 있습니까?",
        "number": "{shape:은} 모두 {n}개입니까?",
        "exists": "그림에 {a:이} 있습니까?",
        "bigger": "{a:이} {b}보다 큽니까?",
        "in front": "{a:이} {b}보다 앞에 있습니까?",
    },
}


def scene_and_question(wanted: Wanted) -> Scene:
    """Shapes, the hindmost first, and a question of the wanted task."""
    return TASKS[wanted.task](wanted)


def _position(wanted: Wanted) -> Scene:
    side = wanted.rng.choice(tuple(STEPS))
    things = _beside(wanted, side)
    question = _worded(wanted, "position", a=things[0], b=things[1])
    others = [said(words, wanted.language) for name, words in SIDES.items() if name != side]
    others += OTHER_SIDES[wanted.language]
    facts = {"first": _named(things[0]), "second": _named(things[1])}
    return things, Asked(question, said(SIDES[side], wanted.language), "text", facts, tuple(others))


OTHER_SIDES: dict[Language, list[str]] = {"en": ["behind", "inside"], "ko": ["뒤쪽", "안쪽"]}


def _beside(wanted: Wanted, side: str) -> list[Thing]:
    """The first shape lies on that side of the second, in the same row or column; others anywhere."""
    count = wanted.num_items()
    grid = grid_side(count)
    right, down = STEPS[side]
    cells = [(column, row) for row in range(grid) for column in range(grid)]
    second = wanted.rng.choice([(x, y) for x, y in cells if 0 <= x + right < grid and 0 <= y + down < grid])
    reach = [(second[0] + right * far, second[1] + down * far) for far in range(1, grid)]
    first = wanted.rng.choice([cell for cell in reach if cell in cells])
    rest = wanted.rng.sample([cell for cell in cells if cell not in (first, second)], count - 2)
    return place(wanted, distinct_kinds(wanted, count), [first, second, *rest], grid, -1)


def _count(wanted: Wanted) -> Scene:
    things, shape, number = _counted(wanted)
    question = _worded(wanted, "count", shape=shape)
    return things, Asked(question, str(number), "number", {"shape": shape}, near_counts(number, len(things), wanted))


def _counted(wanted: Wanted) -> tuple[list[Thing], str, int]:
    """A scene with `number` of one shape, any number as likely as another, in any colours."""
    rng = wanted.rng
    count = wanted.num_items()
    number = rng.randint(0, count)
    shape = rng.choice(tuple(SHAPES))
    rest = [other for other in SHAPES if other != shape]
    shapes = [shape] * number + rng.choices(rest, k=count - number)
    kinds = [(one, rng.choice(tuple(COLOURS))) for one in shapes]
    grid = grid_side(count)
    return place(wanted, kinds, some_cells(wanted, count, grid), grid, -1), shape, number


def _colour(wanted: Wanted) -> Scene:
    """One shape of its kind among others."""
    rng = wanted.rng
    count = wanted.num_items()
    shape, colour = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLOURS))
    rest = [other for other in SHAPES if other != shape]
    kinds = [(shape, colour), *((rng.choice(rest), rng.choice(tuple(COLOURS))) for _ in range(count - 1))]
    grid = grid_side(count)
    things = place(wanted, kinds, some_cells(wanted, count, grid), grid, -1)
    others = [said(words.alone, wanted.language) for name, words in COLOURS.items() if name != colour]
    rng.shuffle(others)
    answer = said(COLOURS[colour].alone, wanted.language)
    return things, Asked(_worded(wanted, "colour", shape=shape), answer, "text", {"shape": shape}, tuple(others))


def _size(wanted: Wanted) -> Scene:
    count = wanted.num_items()
    grid = grid_side(count)
    big = wanted.rng.randrange(count)
    things = place(wanted, distinct_kinds(wanted, count), some_cells(wanted, count, grid), grid, big)
    answer = _spoken(wanted, things[big])
    wrong = [_spoken(wanted, thing) for thing in things if thing is not things[big]]
    return things, Asked(_worded(wanted, "largest"), answer, "text", {}, (*wrong, *_strangers(wanted, things)))


def _depth(wanted: Wanted) -> Scene:
    things = _covering(wanted)
    first, second = wanted.rng.sample(things, 2)
    question = _worded(wanted, "depth", a=first, b=second)
    facts = {"first": _named(first), "second": _named(second)}
    wrong = (_spoken(wanted, things[0]), *_strangers(wanted, things))
    return things, Asked(question, _spoken(wanted, things[1]), "text", facts, wrong)


def _covering(wanted: Wanted) -> list[Thing]:
    """Two shapes of one size, the second in front of the first."""
    rng, size = wanted.rng, wanted.size
    radius = max(5, int(IN_FRONT * size))
    shift = ceil(OVERLAP * radius) * rng.choice((-1, 1))
    reach = radius + abs(shift) + 1
    x, y = (rng.randint(reach, size - 1 - reach) if size > 2 * reach + 1 else size // 2 for _ in range(2))
    x = min(max(x, radius + max(0, -shift)), size - 1 - radius - max(0, shift))
    colours = rng.sample(tuple(COLOURS), 2)
    behind = Thing(rng.choice(FLAT), colours[0], x, y, radius)
    return [behind, Thing(rng.choice(FLAT), colours[1], x + shift, y, radius)]


def _claim(wanted: Wanted) -> Scene:
    """A yes/no question; the answer is drawn first."""
    holds = wanted.rng.random() < 0.5
    claim = wanted.rng.choice(("side", "number", "exists", "bigger", "in front"))
    things, question, facts = CLAIMS[claim](wanted, holds)
    return things, yes_or_no(question, holds, {"claim": claim, **facts}, wanted.language, YES_NO)


Claim = tuple[list[Thing], str, dict[str, Any]]


def _claim_side(wanted: Wanted, holds: bool) -> Claim:
    """A wrong one names the opposite side: the other two would be wrong for any scene."""
    side = wanted.rng.choice(tuple(STEPS))
    things = _beside(wanted, side)
    named = side if holds else {"left": "right", "right": "left", "above": "below", "below": "above"}[side]
    facts = {"first": _named(things[0]), "second": _named(things[1]), "side": named}
    return things, _worded(wanted, named, a=things[0], b=things[1]), facts


def _claim_number(wanted: Wanted, holds: bool) -> Claim:
    things, shape, number = _counted(wanted)
    wrong = wanted.rng.choice([other for other in range(len(things) + 1) if other != number])
    told = number if holds else wrong
    return things, _worded(wanted, "number", shape=shape, n=told), {"shape": shape, "number": told}


def _claim_exists(wanted: Wanted, holds: bool) -> Claim:
    count = wanted.num_items()
    kinds = distinct_kinds(wanted, count + 1)
    grid = grid_side(count)
    things = place(wanted, kinds[:count], some_cells(wanted, count, grid), grid, -1)
    shape, colour = kinds[0] if holds else kinds[count]
    asked = Thing(shape, colour, 0, 0, 0)
    return things, _worded(wanted, "exists", a=asked), {"shape": shape, "colour": colour}


def _claim_bigger(wanted: Wanted, holds: bool) -> Claim:
    count = wanted.num_items()
    grid = grid_side(count)
    things = place(wanted, distinct_kinds(wanted, count), some_cells(wanted, count, grid), grid, 0)
    other = wanted.rng.choice(things[1:])
    first, second = (things[0], other) if holds else (other, things[0])
    facts = {"first": _named(first), "second": _named(second)}
    return things, _worded(wanted, "bigger", a=first, b=second), facts


def _claim_in_front(wanted: Wanted, holds: bool) -> Claim:
    behind, front = things = _covering(wanted)
    first, second = (front, behind) if holds else (behind, front)
    facts = {"first": _named(first), "second": _named(second)}
    return things, _worded(wanted, "in front", a=first, b=second), facts


CLAIMS = {
    "side": _claim_side,
    "number": _claim_number,
    "exists": _claim_exists,
    "bigger": _claim_bigger,
    "in front": _claim_in_front,
}
TASKS = {
    "position": _position,
    "count": _count,
    "colour": _colour,
    "size": _size,
    "depth": _depth,
    "claim": _claim,
}


def _spoken(wanted: Wanted, thing: Thing) -> str:
    return spoken(thing.shape, thing.colour, wanted.language)


def _named(thing: Thing) -> list[str]:
    return [thing.shape, thing.colour]


def _strangers(wanted: Wanted, things: list[Thing]) -> list[str]:
    """Shapes that are not in the scene, to be offered as wrong answers."""
    there = {(thing.shape, thing.colour) for thing in things}
    pool = [(shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in there]
    return [spoken(shape, colour, wanted.language) for shape, colour in wanted.rng.sample(pool, 6)]


def _worded(wanted: Wanted, phrase: str, **words: Any) -> str:
    """The wording with things named by colour and shape, shapes by name."""
    language = wanted.language
    given = {key: _spoken(wanted, word) if isinstance(word, Thing) else str(word) for key, word in words.items()}
    if "shape" in words:
        given["shape"], given["shapes"] = said(SHAPES[words["shape"]], language), PLURALS[words["shape"]]
    return PHRASES[language][phrase].format(**{key: Word(word) for key, word in given.items()})

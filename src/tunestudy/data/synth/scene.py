"""Where the shapes of a scene stand: each in a cell of its own, or two that overlap."""

from dataclasses import dataclass
from typing import Any

from tunestudy.data.synth.sample import Wanted
from tunestudy.data.synth.shape_words import COLOURS, SHAPES

SMALL, LARGE = 0.24, 0.42
"""Radius as a share of a cell's side; the largest shape of a scene is seen at once."""
IN_FRONT = 0.24
"""Radius of two shapes that cover each other, as a share of the image's side."""
OVERLAP = 0.75
"""Distance of their centres, in radii: the midpoint lies inside both, and enough of the hindmost stays in sight."""
FLAT = ("circle", "square", "triangle")
"""Shapes without arms, whose cover can be told."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape; its radius is half the side of the square around it."""

    shape: str
    colour: str
    x: int
    y: int
    radius: int

    def as_truth(self) -> dict[str, Any]:
        return {"shape": self.shape, "colour": self.colour, "x": self.x, "y": self.y, "radius": self.radius}


def grid_side(count: int) -> int:
    """Cells along each side, so that every shape has its own cell."""
    side = 2
    while side * side < count:
        side += 1
    return side


def place(
    wanted: Wanted, kinds: list[tuple[str, str]], cells: list[tuple[int, int]], side: int, big: int
) -> list[Thing]:
    """Shapes (shape, colour), each in its cell (column, row); number `big` large, the others small; -1: none is large.

    A small shape stands a little off its cell's middle, never so far that two columns or rows could be mistaken.
    """
    cell = wanted.size / side
    things = []
    for number, ((shape, colour), (column, row)) in enumerate(zip(kinds, cells, strict=True)):
        radius = max(2, int((LARGE if number == big else SMALL) * cell))
        slack = max(0, int(cell / 2 - radius - 1) // 2)
        x, y = (round((at + 0.5) * cell) + wanted.rng.randint(-slack, slack) for at in (column, row))
        things.append(Thing(shape, colour, x, y, radius))
    return things


def some_cells(wanted: Wanted, count: int, side: int) -> list[tuple[int, int]]:
    """Distinct cells, anywhere."""
    return wanted.rng.sample([(column, row) for row in range(side) for column in range(side)], count)


def distinct_kinds(wanted: Wanted, count: int) -> list[tuple[str, str]]:
    """(shape, colour) pairs that all differ in both words where they can, always in the pair."""
    rng = wanted.rng
    colours = rng.sample(list(COLOURS), min(count, len(COLOURS)))
    colours += rng.choices(list(COLOURS), k=count - len(colours))
    shapes = rng.choices(list(SHAPES), k=count)
    kinds: list[tuple[str, str]] = []
    for shape, colour in zip(shapes, colours, strict=True):
        free = [(shape, colour), *((other, colour) for other in SHAPES), *((s, c) for s in SHAPES for c in COLOURS)]
        kinds.append(next(kind for kind in free if kind not in kinds))
    return kinds

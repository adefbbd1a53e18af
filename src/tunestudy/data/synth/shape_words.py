"""Names of colours and shapes in both languages."""

from dataclasses import dataclass

from tunestudy.data.synth.sample import Language
from tunestudy.data.synth.topics import Pair, said


@dataclass(frozen=True, slots=True)
class Colour:
    """`before`: as it stands before a noun; `alone`: as the answer to what colour it is."""

    rgb: tuple[int, int, int]
    before: Pair
    alone: Pair


COLOURS = {
    "red": Colour((220, 30, 30), ("red", "빨간"), ("red", "빨간색")),
    "blue": Colour((30, 70, 220), ("blue", "파란"), ("blue", "파란색")),
    "green": Colour((30, 150, 50), ("green", "초록색"), ("green", "초록색")),
    "yellow": Colour((245, 205, 20), ("yellow", "노란"), ("yellow", "노란색")),
    "black": Colour((15, 15, 15), ("black", "검은"), ("black", "검은색")),
    "purple": Colour((130, 40, 170), ("purple", "보라색"), ("purple", "보라색")),
    "orange": Colour((245, 130, 20), ("orange", "주황색"), ("orange", "주황색")),
    "grey": Colour((150, 150, 150), ("grey", "회색"), ("grey", "회색")),
}
SHAPES: dict[str, Pair] = {
    "circle": ("circle", "원"),
    "square": ("square", "정사각형"),
    "triangle": ("triangle", "삼각형"),
    "cross": ("cross", "십자"),
}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
SIDES: dict[str, Pair] = {
    "left": ("left", "왼쪽"),
    "right": ("right", "오른쪽"),
    "above": ("above", "위쪽"),
    "below": ("below", "아래쪽"),
}


def spoken(shape: str, colour: str, language: Language) -> str:
    """`red circle`."""
    return f"{said(COLOURS[colour].before, language)} {said(SHAPES[shape], language)}"

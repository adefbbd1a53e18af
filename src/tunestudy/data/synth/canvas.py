"""A white square to draw on, which remembers where each text was put."""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw

from tunestudy.data.synth.fonts import Font
from tunestudy.data.synth.sample import Language, Wanted

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels; right and bottom lie just outside."""

INK = (24, 24, 28)
PALE = (205, 208, 214)
SMALLEST_TEXT = 6
"""Pixels; below this letters merge."""
COMPRESSION = 3
"""zlib level of PNG files: larger ones cost more time than they save bytes on drawings."""

COLOURS = (
    (31, 119, 180),
    (214, 39, 40),
    (44, 160, 44),
    (255, 160, 30),
    (120, 80, 170),
    (140, 86, 75),
    (227, 119, 194),
    (100, 100, 100),
    (180, 180, 40),
    (23, 170, 190),
    (20, 60, 110),
    (120, 20, 60),
)


class Canvas:
    """An RGB image with its pen, the language's font, and a list of the texts written so far."""

    def __init__(self, wanted: Wanted) -> None:
        self.size = wanted.size
        self.image = Image.new("RGB", (wanted.size, wanted.size), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.texts: list[dict[str, Any]] = []
        self._language: Language = wanted.language
        self._fonts = wanted.fonts

    def font(self, pixels: int) -> Font:
        """The language's font."""
        return self._fonts.sized(self._language, pixels)

    def width(self, text: str, pixels: int) -> int:
        """Pixels from the pen's start to the end of the last letter's ink."""
        return int(_width(self.font(pixels), text)) + 1

    def fitting(self, texts: Sequence[str], width: float, pixels: int) -> int:
        """The largest size up to `pixels` at which every text is at most `width` wide, but never illegibly small."""
        widest = max(texts, key=lambda text: self.width(text, pixels))
        while pixels > SMALLEST_TEXT and self.width(widest, pixels) > width:
            pixels -= 1
        return pixels

    def write(
        self,
        x: float,
        y: float,
        text: str,
        pixels: int,
        *,
        anchor: str = "la",
        colour: tuple[int, int, int] = INK,
        halo: int = 0,
    ) -> Box:
        """Write a line; `anchor` as Pillow's. `halo`: width of a white border around the letters. Returns its ink."""
        font = self.font(pixels)
        left, top, right, bottom = self.pen.textbbox((round(x), round(y)), text, font=font, anchor=anchor)
        box = (int(left), int(top), int(right) + 1, int(bottom) + 1)
        self.pen.text(
            (round(x), round(y)), text, fill=colour, font=font, anchor=anchor, stroke_width=halo, stroke_fill="white"
        )
        self.texts.append({"text": text, "box": list(box)})
        return box


@lru_cache(maxsize=65536)
def _width(font: Font, text: str) -> float:
    return float(font.getbbox(text)[2])


def estimated_width(text: str, pixels: float) -> float:
    """Width of a text in an ordinary font, to choose words by: which words an image has must not depend on the font."""
    return pixels * sum(1.0 if ord(letter) > 0x1100 else 0.3 if letter in " .,:iIl1" else 0.64 for letter in text)


def readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Ink on light colours, white on dark ones, by luma (ITU-R BT.601)."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def png_bytes(image: Image.Image) -> bytes:
    """The image as PNG without metadata: the same bytes for the same pixels and the same Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=COMPRESSION)
    return buffer.getvalue()

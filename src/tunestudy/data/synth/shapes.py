"""Scenes of coloured shapes: where, how many, which colour, which size, which in front."""

from PIL import Image, ImageDraw

from tunestudy.data.synth.sample import Drawn, Wanted
from tunestudy.data.synth.scene import Thing
from tunestudy.data.synth.shape_questions import scene_and_question
from tunestudy.data.synth.shape_words import COLOURS


def draw(wanted: Wanted) -> Drawn:
    """A scene with a question.

    truth: things (shape, colour, centre, radius), the hindmost first.
    """
    things, asked = scene_and_question(wanted)
    image = Image.new("RGB", (wanted.size, wanted.size), "white")
    pen = ImageDraw.Draw(image)
    for thing in things:
        paint(pen, thing)
    return Drawn(image, asked, {"things": [thing.as_truth() for thing in things]})


def paint(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    """Draw one shape, filled, inside the square around its centre."""
    x, y, r = thing.x, thing.y, thing.radius
    colour = COLOURS[thing.colour].rgb
    if thing.shape == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif thing.shape == "square":
        pen.rectangle([x - r, y - r, x + r, y + r], fill=colour)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    else:
        arm = max(1, r // 3)
        pen.rectangle([x - r, y - arm, x + r, y + arm], fill=colour)
        pen.rectangle([x - arm, y - r, x + arm, y + r], fill=colour)

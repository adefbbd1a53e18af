"""Re-encoded and resized images are found again; others that only look alike at a glance are not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tunestudy.config.synth import SynthSettings
from tunestudy.data.images import ImageBytes
from tunestudy.data.likeness import AHEAD, Looks, alike, look_at, same, small_picture
from tunestudy.data.rejected import Rejected
from tunestudy.data.synth.fonts import find_fonts
from tunestudy.data.synth.sample import sample

PICTURES = 2
KINDS = ("chart", "document", "table", "shapes")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def looks_of(images: list[bytes]) -> Looks:
    return look_at(ImageBytes(data=data) for data in images)


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    """Some of every kind, and of three sizes."""
    found = []
    for kind in KINDS:
        for size in (448, 224, 112):
            settings = SynthSettings(kind=kind, count=PICTURES, seed=size, image_size=size)
            fonts = find_fonts(settings, Path())
            found += [sample(settings, i, fonts).image for i in range(PICTURES)]
    return found


def times(image: Image.Image, factor: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), how)


CHANGES = {
    "jpeg 50": lambda image: encoded(image, "JPEG", quality=50),
    "jpeg 95": lambda image: encoded(image, "JPEG", quality=95),
    "webp": lambda image: encoded(image, "WEBP", quality=80),
    "half": lambda image: encoded(times(image, 0.5)),
    "0.7": lambda image: encoded(times(image, 0.7, Image.Resampling.LANCZOS)),
    "twice": lambda image: encoded(times(image, 2, Image.Resampling.BILINEAR)),
    "half, jpeg 75": lambda image: encoded(times(image, 0.5), "JPEG", quality=75),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_only_they(drawn, change):
    originals, copies = looks_of([encoded(image) for image in drawn]), looks_of([CHANGES[change](i) for i in drawn])
    pairs = list(alike(copies, originals))
    assert all(i == j for i, j in pairs), "a copy matched another image than its original"
    assert len(pairs) >= 0.9 * len(drawn)


def chart(heights: list[int], number: str = "37", colour: str = "navy") -> Image.Image:
    image = Image.new("RGB", (448, 448), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 30, 430, 410), outline="black", width=2)
    for place, height in enumerate(heights):
        draw.rectangle((70 + 70 * place, 410 - height, 110 + 70 * place, 410), fill=colour)
    draw.text((200, 10), number, fill="black", font_size=18)
    return image


@pytest.mark.parametrize(
    "other",
    [chart([100, 200, 150, 80, 220]), chart([100, 200, 150, 60, 300], colour="darkgreen"), chart([200, 100, 150, 60])],
    ids=["one bar", "colour", "two bars"],
)
def test_charts_in_the_same_frame_are_told_apart(other):
    one, two = looks_of([encoded(chart([100, 200, 150, 60, 300]))]), looks_of([encoded(other)])
    assert list(alike(one, two)) == []
    assert list(alike(one, one)) == [(0, 0)]


def test_no_pair_that_the_slow_comparison_accepts_is_lost_by_the_fast_one(drawn):
    changes = list(CHANGES.values())
    some = looks_of([encoded(image) for image in drawn[::3]])
    others = looks_of([changes[n % len(changes)](image) for n, image in enumerate(drawn[::3])])
    slow = {(i, j) for i in range(len(some)) for j in range(len(others)) if same(some, i, others, j)}
    assert set(alike(some, others)) == slow
    assert len(slow) >= 0.9 * len(some)


def test_noise_and_blank_images():
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(0, 256, (200, 300, 3), dtype=np.uint8)) for _ in range(8)]
    blank = [Image.new("RGB", (300, 200), colour) for colour in ("white", "black", "red", "#0000ff")]
    looks = looks_of([encoded(image) for image in [*noise, *blank]])
    assert sorted(alike(looks, looks)) == [(i, i) for i in range(len(looks))]


def test_small_images_must_be_equal_pixel_by_pixel():
    scan = np.random.default_rng(1).integers(0, 17, (8, 8)) * 15
    other = scan.copy()
    other[3, 3] = (other[3, 3] + 15) % 255
    png, webp, changed = (
        encoded(Image.fromarray(scan.astype(np.uint8))),
        encoded(Image.fromarray(scan.astype(np.uint8)).convert("RGB"), "WEBP", lossless=True),
        encoded(Image.fromarray(other.astype(np.uint8))),
    )
    assert sorted(alike(looks_of([png]), looks_of([webp, changed]))) == [(0, 0)]


def test_other_shapes_are_other_images():
    tall = chart([100, 200, 150, 60, 300])
    assert list(alike(looks_of([encoded(tall)]), looks_of([encoded(tall.resize((448, 300)))]))) == []


def test_what_cannot_be_decoded_looks_like_nothing():
    looks = looks_of([b"no image", b"", encoded(chart([10]))[:200]])
    assert not looks.sizes.any()
    assert list(alike(looks, looks)) == []
    with pytest.raises(Rejected):
        small_picture(b"no image")


def test_order_is_kept_however_many_threads():
    images = [encoded(Image.new("L", (40 + i, 30), i)) for i in range(3 * AHEAD)]
    looks = looks_of(images)
    assert looks.sizes[:, 0].tolist() == [40 + i for i in range(3 * AHEAD)]
    assert np.abs(looks.pictures[:, 0].astype(int) - np.arange(3 * AHEAD)).max() <= 1


def test_a_turned_photograph_has_its_upright_size():
    turned = Image.Exif()
    turned[274] = 6
    data = encoded(Image.new("RGB", (2000, 1000), "grey"), "JPEG", exif=turned)
    assert small_picture(data)[1] == (1000, 2000)

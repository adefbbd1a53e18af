"""What counts as an image, over the forms that the web has."""

import io
import random
import warnings

import pytest
from badweb import BODIES, picture, png_header
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tunestudy.data.fetch.examine import ORIENTATION, examine
from tunestudy.data.rejected import Rejected

MANY = 1_000_000
pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what it is shown here on purpose


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def of_mode(mode, size=(30, 20)):
    if mode == "I;16":
        return Image.frombytes("I;16", size, random.Random(1).randbytes(size[0] * size[1] * 2))
    return Image.frombytes("RGB", size, random.Random(1).randbytes(size[0] * size[1] * 3)).convert(mode)


FORMS = {
    "jpeg": saved(of_mode("RGB"), "JPEG"),
    "progressive": saved(of_mode("RGB"), "JPEG", progressive=True),
    "grey": saved(of_mode("L"), "JPEG"),
    "cmyk": saved(of_mode("CMYK"), "JPEG"),
    "palette": saved(of_mode("P"), "PNG", transparency=0),
    "grey and alpha": saved(of_mode("LA"), "PNG"),
    "sixteen bits": saved(of_mode("I;16"), "PNG"),
    "alpha": saved(of_mode("RGBA"), "PNG"),
    "one bit": saved(of_mode("1"), "PNG"),
    "webp": saved(of_mode("RGBA"), "WEBP"),
    "bmp": saved(of_mode("RGB"), "BMP"),
    "tiff": saved(of_mode("RGB"), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_web(form):
    assert examine(FORMS[form], max_pixels=MANY) == (30, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_as_seen(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    seen = (20, 30) if orientation >= 5 else (30, 20)
    assert examine(saved(of_mode("RGB"), "JPEG", exif=exif), max_pixels=MANY) == seen


def test_the_smallest_and_the_longest():
    assert examine(picture(1, "PNG", (1, 1)), max_pixels=MANY) == (1, 1)
    assert examine(picture(1, "JPEG", (1, 3)), max_pixels=MANY) == (1, 3)
    assert examine(picture(1, "PNG", (3000, 1)), max_pixels=MANY) == (3000, 1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (saved(of_mode("P"), "GIF", save_all=True, append_images=[of_mode("P").rotate(90)]), "animated image"),
        (saved(of_mode("RGB"), "WEBP", save_all=True, append_images=[of_mode("L").convert("RGB")]), "animated image"),
        (BODIES["html"], "not an image: HTML"),
        (BODIES["svg"], "not an image: SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (picture(1)[:200], "damaged image"),
        (picture(1, size=(200, 200))[:-300], "damaged image"),
        (picture(1, "PNG")[:-40], "damaged image"),
        (FORMS["progressive"][:-100], "damaged image"),
        (png_header(2000, 2000), "too many pixels: 2000×2000"),
        (png_header(20_000, 20_000), "too many pixels"),
        (png_header(500, 500), "damaged image"),
    ],
)
def test_what_is_refused(data, told):
    with warnings.catch_warnings(), pytest.raises(Rejected, match=told):
        warnings.simplefilter("error")
        examine(data, max_pixels=MANY)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.integers(0, 2**32), st.integers(1, 40))
def test_whatever_is_damaged_is_an_image_or_rejected(form, seed, changes):
    rng, data = random.Random(seed), bytearray(FORMS[form])
    for _ in range(changes):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        width, height = examine(bytes(data), max_pixels=MANY)
    except Rejected:
        return
    assert 0 < width * height <= MANY

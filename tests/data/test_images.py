"""Every kind of image becomes upright RGB or is rejected with its reason; a settled one is found and checked again."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunestudy.config.errors import StudyError
from tunestudy.data.fetch.examine import examine
from tunestudy.data.images import STORE, ImageBytes, ImagePlaces, decode
from tunestudy.data.rejected import Rejected
from tunestudy.data.store import ImageStore


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3) * 3)


def huge_header(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


PNG, JPEG = saved(gradient(64, 64), "PNG"), saved(gradient(64, 64), "JPEG")
BAD = {
    "zero bytes": (b"", "empty image"),
    "truncated PNG": (PNG[: len(PNG) // 2], "broken image"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "broken image"),
    "flipped bytes": (PNG[:60] + b"\0" * 40 + PNG[100:], "broken image"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "not an image: a web page"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image: a web page"),
    "text": (b"no such file", "not an image"),
    "animated GIF": (
        saved(gradient(), "GIF", save_all=True, append_images=[gradient(6, 4).rotate(180)]),
        "animated image: 2 frames",
    ),
    "bomb": (huge_header(20000, 20000), "too many pixels"),
    "huge": (huge_header(12000, 12000), "too many pixels"),
    "32-bit integers": (saved(Image.fromarray(np.array([[9, 70000]], np.int32)), "TIFF"), "unknown range"),
    "floating point": (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "broken image"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_whole_still_image_is_rejected(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(Rejected, match=reason):
        decode(data)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_images_are_decoded_or_rejected_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    for good in (PNG, JPEG, saved(gradient(), "GIF"), saved(gradient(64, 64), "WEBP"), saved(gradient(), "TIFF")):
        data = bytearray(good)
        for place in random.integers(0, len(data), 6):
            data[place] = int(random.integers(0, 256))
        try:
            assert decode(bytes(data)).mode == "RGB"
        except Rejected as problem:
            assert str(problem)


def test_the_pixel_limit_is_the_data_sets(tmp_path: Path) -> None:
    assert decode(PNG, max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(Rejected, match="64 × 64, the limit is 4,095"):
        decode(PNG, max_pixels=64 * 64 - 1)


def test_a_limit_above_pillows_own_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow refuses twice its limit, and warns of more than once."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(PNG, max_pixels=64 * 64 + 7).size == (64, 64)
        assert examine(JPEG, max_pixels=64 * 64 + 8) == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 64 * 64 + 8
    with pytest.raises(Rejected, match=r"too many pixels: the limit is 1,001"):
        decode(huge_header(2000, 2000), max_pixels=1001)


def test_images_that_are_named_absolutely_stay_where_they_are(tmp_path: Path) -> None:
    """The study's folder may move; what lies beside it as the study says moves along."""
    home, pool = tmp_path / "study" / "jobs" / ".." / "..", tmp_path / "pool"
    (tmp_path / "study" / "jobs").mkdir(parents=True)
    pool.mkdir()
    (pool / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG)
    places = ImagePlaces(home, ImageStore(tmp_path / "images"))
    absolute, beside = (places.settle(ImageBytes(path=path)) for path in (pool / "a.png", home / "b.png"))
    assert (absolute.place, beside.place) == ((pool / "a.png").as_posix(), "b.png")


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    return saved(gradient(), "PNG", exif=exif)


def transparent() -> bytes:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    return saved(image, "PNG")


KINDS: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray]]] = {
    "RGB": (lambda: saved(gradient(), "PNG"), lambda: np.asarray(gradient())),
    "EXIF-rotated": (exif_rotated, lambda: np.rot90(np.asarray(gradient()), -1)),
    "transparent on white": (transparent, lambda: np.array([[[255, 255, 255], [10, 20, 30]]])),
    "16-bit grey": (
        lambda: saved(Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)), "PNG"),
        lambda: np.array([[[0] * 3, [100] * 3, [255] * 3]]),
    ),
    "palette": (
        lambda: saved(Image.new("RGB", (3, 2), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        lambda: np.full((2, 3, 3), (9, 8, 7)),
    ),
    "one bit": (lambda: saved(Image.new("1", (3, 2), 1), "PNG"), lambda: np.full((2, 3, 3), 255)),
    "CMYK": (
        lambda: saved(Image.new("CMYK", (3, 2), (0, 0, 0, 0)), "TIFF"),
        lambda: np.full((2, 3, 3), 255),
    ),
    "one frame of an animation": (lambda: saved(Image.new("L", (3, 2), 50), "GIF"), lambda: np.full((2, 3, 3), 50)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_what_a_viewer_shows(kind: str) -> None:
    make, expected = KINDS[kind]
    got = decode(make())
    assert got.mode == "RGB"
    assert np.array_equal(np.asarray(got), expected())


def test_bytes_go_to_the_store_files_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(PNG)
    (tmp_path / "b.tar").write_bytes(b"x" * 100 + JPEG + b"y" * 10)
    places = ImagePlaces(tmp_path, ImageStore(tmp_path / "cache" / "images"))
    in_record = places.settle(ImageBytes(data=PNG))
    in_file = places.settle(ImageBytes(path=tmp_path / "data" / "a.png"))
    in_tar = places.settle(ImageBytes(path=tmp_path / "b.tar", offset=100, length=len(JPEG)))
    assert (in_record.place, in_file.place, in_tar.place) == (STORE, "data/a.png", "b.tar")
    assert in_record.sha256 == in_file.sha256
    assert [places.read(facts) for facts in (in_record, in_file, in_tar)] == [PNG, PNG, JPEG]
    assert (in_tar.width, in_tar.height) == (64, 64)


def test_an_image_that_is_changed_or_gone_after_it_was_settled_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    places = ImagePlaces(tmp_path, ImageStore(tmp_path / "images"))
    facts = places.settle(ImageBytes(path=tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes(saved(gradient(64, 64).rotate(90), "PNG")[: len(PNG)].ljust(len(PNG), b"\0"))
    with pytest.raises(StudyError, match="was changed since the data were prepared"):
        places.read(facts)
    (tmp_path / "a.png").unlink()
    with pytest.raises(StudyError, match="is gone since the data were prepared"):
        places.read(facts)


def test_a_damaged_image_in_the_store_is_written_again(tmp_path: Path) -> None:
    places = ImagePlaces(tmp_path, ImageStore(tmp_path / "images"))
    facts = places.settle(ImageBytes(data=PNG))
    places.store.path(facts.sha256).write_bytes(b"\0" * len(PNG))
    assert places.read(places.settle(ImageBytes(data=PNG))) == PNG


def test_bytes_that_are_not_what_their_hash_says_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="image was changed"):
        ImagePlaces(tmp_path, ImageStore(tmp_path)).settle(ImageBytes(data=PNG, sha256="0" * 64))

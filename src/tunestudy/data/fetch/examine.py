"""Whether bytes are an image that training can use: told by decoding it once, within a cap on its pixels."""

import io

from PIL import Image, UnidentifiedImageError

from tunestudy.data.images import known_formats, take_up_to
from tunestudy.data.rejected import Rejected

ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""

DRAFT = 8
"""A JPEG is decoded at an eighth of its size: all its data are read, a sixty-fourth of its pixels are kept."""


def examine(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """(width, height) as seen, that is, after EXIF orientation. Raises Rejected.

    The header is judged before anything is decoded.
    """
    take_up_to(max_pixels)
    if not data:
        raise Rejected("empty")
    try:
        with Image.open(io.BytesIO(data), formats=known_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Rejected("too many pixels", f"{width}×{height}")
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise Rejected("animated image")
            if image.format in ("JPEG", "MPO"):
                image.draft(None, (max(1, width // DRAFT), max(1, height // DRAFT)))
            image.load()
            turned = image.getexif().get(ORIENTATION) in TURNED
    except Rejected:
        raise
    except Image.DecompressionBombError:
        raise Rejected("too many pixels") from None
    except UnidentifiedImageError:
        raise Rejected("not an image", _looks_like(data)) from None
    except Exception as error:  # noqa: BLE001 - decoders meet foreign bytes with every kind of error
        raise Rejected("damaged image", f"{type(error).__name__}: {error}"[:200]) from None
    return (height, width) if turned else (width, height)


def _looks_like(data: bytes) -> str:
    start = data[:1024].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        return "SVG"
    return "HTML" if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")) else ""

"""Images: from what a record names to pixels that a model may see.

Everything that can be wrong with an image is found before training begins (`examine`), so that decoding in training can
fail only where a file was changed since; that is found by its hash. What a viewer shows is what a model sees: EXIF
rotations are applied, transparency lies on white, 16-bit grey is scaled, CMYK becomes RGB.
"""

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunestudy.config.errors import StudyError, at
from tunestudy.data.rejected import Rejected
from tunestudy.data.sources import Folders
from tunestudy.data.store import ImageStore, is_sha256

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""More is refused before decoding: Pillow's own mark for a decompression bomb."""

IMAGE_MARK = "\u2402image\u2403"
"""Stands for an image in a canonical example's text; control pictures do not occur in conversations."""

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Not all that Pillow knows: EPS starts Ghostscript, and others are no pictures."""

STORE = "store"
"""The place of an image that the study's own store holds."""

CURE = "put it back, or delete the study's cache/data to prepare them anew"

_WEB_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<svg")


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """Where an image's bytes lie: in a file (a part of it, for a member of a tar), or in the record itself."""

    path: Path | None = None
    offset: int = 0
    length: int | None = None
    """None: to the end of the file."""
    data: bytes | None = None
    sha256: str | None = None
    """What the bytes must hash to; None: not known yet."""

    def read(self) -> bytes:
        """The bytes. Raises Rejected for a file that is not there."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read() if self.length is None else file.read(self.length)
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL
            reason = error.strerror if isinstance(error, OSError) else error
            raise Rejected("no such image", f"{self.path.name[:100]}: {reason}") from error


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, draft: tuple[int, int] | None = None) -> "Image":
    """The image as RGB, upright. Raises Rejected for what is no whole, still image of sensible size.

    draft: a JPEG may come at half, a quarter or an eighth of its size, but not below these sides: decoding is faster.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    take_up_to(max_pixels)
    if not data:
        raise Rejected("empty image", "a file of 0 bytes")
    try:
        image: Any = Image.open(io.BytesIO(data), formats=known_formats())
        if image.width * image.height > max_pixels:
            raise Rejected("too many pixels", f"{image.width} × {image.height}, the limit is {max_pixels:,}")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a photograph, and others beside it
            raise Rejected("animated image", f"{image.n_frames} frames; which one is meant is not said")
        if draft is not None:
            image.draft(None, draft)
        image.load()
        if image.mode == "I" and image.format == "TIFF":
            raise Rejected("broken image", "grey values are 32-bit integers of unknown range")
        upright: Image.Image = _as_rgb(ImageOps.exif_transpose(image))
        return upright
    except (Rejected, MemoryError):
        raise
    except UnidentifiedImageError:
        kind = "a web page" if data[:64].lstrip().lower().startswith(_WEB_PAGE) else f"begins with {data[:8]!r}"
        raise Rejected("not an image", kind) from None
    except Image.DecompressionBombError:  # twice Pillow's own limit, which is never below ours
        raise Rejected("too many pixels", f"the limit is {max_pixels:,}") from None
    except Exception as error:
        raise Rejected("broken image", str(error)) from error


@lru_cache
def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@lru_cache
def take_up_to(max_pixels: int) -> None:
    """Have Pillow leave the judging of sizes to `max_pixels`, and keep silent about odd metadata.

    Its own limit, which belongs to all threads, is raised to ours where that is higher and never lowered; above twice
    the limit it refuses by an error, below it warns. Once for each limit, because filters belong to all threads too.
    """
    from PIL import Image

    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _as_rgb(image: Any) -> Any:
    """Any of Pillow's modes as RGB."""
    from PIL import Image

    if image.mode == "F":
        raise Rejected("broken image", "grey values are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16-bit grey; `convert` would clip it to white
        grey = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((grey // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What training must know of an image: where it lies, what it must be, and how large it is upright."""

    place: str
    """`store` for the study's own store, else a path: relative to the study file's folder, or absolute where the images
    are named so."""
    offset: int
    length: int
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class ImagePlaces:
    """Where images lie: those of files below the study file's folder, and those of the store."""

    base_dir: Path
    store: ImageStore
    max_pixels: int = MAX_PIXELS

    def settle(self, image: ImageBytes) -> ImageFacts:
        """Decode an image once, keep it where training finds it again, and say what it is. Raises Rejected."""
        data = image.read()
        digest = hashlib.sha256(data).hexdigest()
        if image.sha256 is not None and image.sha256 != digest:
            raise Rejected("image was changed", f"SHA-256 {digest[:12]}…, expected {image.sha256[:12]}…")
        decoded = decode(data, max_pixels=self.max_pixels)
        place, offset = STORE, 0
        if image.path is None:
            self.store.keep(data)
        elif image.path != self.store.path(digest):
            place, offset = _place(image.path, self.base_dir), image.offset
        return ImageFacts(place, offset, len(data), digest, decoded.width, decoded.height)

    def path(self, facts: ImageFacts) -> Path:
        """The file that a settled image lies in, alone or as a part."""
        return self.store.path(facts.sha256) if facts.place == STORE else self.base_dir / facts.place

    def read(self, facts: ImageFacts) -> bytes:
        """The bytes of a settled image; StudyError when they are not what they were."""
        path = self.path(facts)
        try:
            with open(path, "rb") as file:
                file.seek(facts.offset)
                data = file.read(facts.length)
        except OSError as error:
            raise StudyError(
                at("datasets"), f"an image is gone since the data were prepared: {error}; {CURE}"
            ) from error
        if hashlib.sha256(data).hexdigest() != facts.sha256:
            raise StudyError(at("datasets"), f"{path} was changed since the data were prepared; {CURE}")
        return data


def _place(path: Path, base_dir: Path) -> str:
    """As it was written: what was found from the study file's folder on moves with it, the rest stays where it is."""
    place = Path(os.path.relpath(path, base_dir)) if path.is_relative_to(base_dir) else path.absolute()
    return place.as_posix()


def images_of(value: Any, folders: Folders, *, several: bool) -> list[ImageBytes]:
    """The images that a column names: a path, bytes, `{bytes, path}`, `{path, offset, length}`, `{sha256, …}`.

    several: the column is a list by its name (`images`); else one image, or a list. Raises Rejected.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_image_of(one, folders) for one in value]
    if several:
        raise Rejected("wrong type", f"images must be a list, not {type(value).__name__}; one image is called image")
    return [_image_of(value, folders)]


def _of_data_url(url: str) -> bytes:
    """The bytes of `data:image/png;base64,…`. Source: RFC 2397."""
    head, comma, body = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError("only base64 is understood")
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise Rejected("not an image", f"{head[:40]},…: {error}") from error


def _image_of(value: Any, folders: Folders) -> ImageBytes:
    if isinstance(value, bytes):
        return ImageBytes(data=value)
    if isinstance(value, str) and value.startswith("data:"):
        return ImageBytes(data=_of_data_url(value))
    if isinstance(value, str) and value:
        if value.startswith(("http://", "https://")):
            cure = "put it into a column `image` or `images`, give the data set `fetch:` and run `tunestudy fetch`"
            raise Rejected("image is a URL", cure)  # which may hold a password
        return ImageBytes(path=folders.images / value)
    if isinstance(value, Mapping):
        data, path, offset, length = (value.get(key) for key in ("bytes", "path", "offset", "length"))
        if isinstance(data, bytes):
            return ImageBytes(data=data)
        if data is None and isinstance(path, str) and isinstance(offset, int | None) and isinstance(length, int | None):
            return ImageBytes(folders.images / path, offset or 0, length)
        if isinstance(digest := value.get("sha256"), str) and is_sha256(digest):
            return ImageBytes(ImageStore(folders.store).path(digest), sha256=digest)
    raise Rejected("wrong type", f"an image must be a path, bytes or {{bytes, path}}, not {type(value).__name__}")

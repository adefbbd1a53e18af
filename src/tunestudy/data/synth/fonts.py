"""The fonts that synthetic images are drawn with, proven to have the letters that will be asked of them."""

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.fonts import NO_HANGUL, candidates
from tunestudy.config.paths import located
from tunestudy.config.synth import SynthSettings

Font = ImageFont.FreeTypeFont

PROBES = {"en": ("A", "g"), "ko": ("가", "힣")}
ABSENT = "\U0010fff0"
"""A private code point, which fonts draw as their empty box."""
PROBE_PIXELS = 24


@dataclass(frozen=True)
class Fonts:
    """A font file per language; None: the one that comes with Pillow, which has no Hangul."""

    en: Path | None = None
    ko: Path | None = None

    def sized(self, language: str, pixels: int) -> Font:
        """The language's font at this size."""
        return _sized(self.ko if language == "ko" else self.en, pixels)

    def digest(self, language: str) -> str:
        """SHA-256 of the language's font file; `pillow` for Pillow's own."""
        path = self.ko if language == "ko" else self.en
        return "pillow" if path is None else _sha256(path)


def find_fonts(settings: SynthSettings, base_dir: Path) -> Fonts:
    """The named font, or the first of this system for each language that is wanted.

    Raises StudyError when a named font cannot be used, or when Korean is wanted and nothing draws it.
    """
    if not settings.draws_text:
        return Fonts()
    if settings.font is not None:
        path = located(base_dir, settings.font)
        for language in settings.languages:
            if not draws(path, language):
                lacking = "cannot be read as a font" if not draws(path, "en") else "has no Hangul"
                raise StudyError(at("datasets.font"), f"{path} {lacking}", exit_code=Exit.PREFLIGHT_REFUSED)
        return Fonts(path, path)
    ko = system_font("ko") if "ko" in settings.languages else None
    if "ko" in settings.languages and ko is None:
        raise StudyError(at("datasets.language"), NO_HANGUL, exit_code=Exit.PREFLIGHT_REFUSED)
    return Fonts(system_font("en") if "en" in settings.languages else None, ko)


@cache
def system_font(language: str) -> Path | None:
    """The first font of this system that is proven to draw the language."""
    return next((path for path in candidates(language) if draws(path, language)), None)


def draws(path: Path, language: str) -> bool:
    """Whether the font draws two letters of the language, each unlike the other and unlike its box for unknown ones."""
    try:
        font = _sized(path, PROBE_PIXELS)
    except OSError:
        return False
    pictures = [_picture(font, letter) for letter in (*PROBES[language], ABSENT)]
    return all(any(picture) for picture in pictures[:2]) and len(set(pictures)) == len(pictures)


def _picture(font: Font, letter: str) -> bytes:
    return bytes(font.getmask(letter, mode="L"))


@lru_cache(maxsize=256)
def _sized(path: Path | None, pixels: int) -> Font:
    """Without Raqm: its presence would change pixels, and neither language needs its shaping."""
    if path is None:
        built_in = ImageFont.load_default(pixels)
        assert isinstance(built_in, ImageFont.FreeTypeFont), "Pillow without FreeType draws no text of a given size"
        return built_in
    return ImageFont.truetype(str(path), pixels, layout_engine=ImageFont.Layout.BASIC)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Which font files synthetic images may be drawn with; found without drawing, for plans name what data depend on."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
HANGUL = (
    "NanumGothic.ttf",
    "NanumBarunGothic.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKkr-Regular.otf",
    "NotoSansKR-Regular.otf",
    "NotoSansKR-Regular.ttf",
    "UnDotum.ttf",
    "Pretendard-Regular.otf",
    "gulim.ttf",
    "dotum.ttf",
    "AppleSDGothicNeo.ttc",
    "malgun.ttf",
)
"""Usual Korean fonts, the plainest first: Nanum, Noto CJK, Unfonts, Pretendard, Baekmuk, macOS, Windows."""
LATIN = (
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "arial.ttf",
    "Helvetica.ttc",
    *HANGUL,
)
NO_HANGUL = "no font of this system draws Hangul: `apt-get install fonts-nanum`, or name a file with `font:`"
SUFFIXES = (".ttf", ".otf", ".ttc")


def candidates(language: str) -> Iterator[Path]:
    """Font files to try for `en` or `ko`, best first; the same order on every machine with the same fonts.

    For Korean only fonts that are known, by name or to fontconfig, to have Hangul.
    """
    installed = _installed()
    by_name = {path.name: path for path in reversed(installed)}
    wanted = HANGUL if language == "ko" else LATIN
    yield from (by_name[name] for name in wanted if name in by_name)
    yield from _known_to_fontconfig() if language == "ko" else installed


@cache
def _installed() -> tuple[Path, ...]:
    folders = [Path(folder).expanduser() for folder in FOLDERS]
    files = (file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES)
    return tuple(files)


@cache
def _known_to_fontconfig() -> tuple[Path, ...]:
    """Files that fontconfig lists for Korean; empty where there is no fontconfig."""
    command = shutil.which("fc-list")
    if command is None:
        return ()
    told = subprocess.run([command, ":lang=ko", "file"], capture_output=True, text=True, check=False, timeout=60)
    paths = [Path(line.strip().removesuffix(":").strip()) for line in told.stdout.splitlines() if line.strip()]
    return tuple(sorted(path for path in paths if path.suffix.lower() in SUFFIXES))

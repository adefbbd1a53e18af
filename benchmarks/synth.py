"""Images a second that one core draws and encodes, per kind of synthetic data and image size.

    python benchmarks/synth.py [seconds per case]

Counts processor time, which a busy machine distorts less than wall time. Text is half English, half Korean where this
machine has a font for Korean.
"""

import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import PIL

from tunestudy.config.synth import SynthKind, SynthSettings
from tunestudy.data.synth.canvas import png_bytes
from tunestudy.data.synth.fonts import Fonts, find_fonts, system_font
from tunestudy.data.synth.sample import sample

CASES: tuple[tuple[SynthKind, int], ...] = (
    ("shapes", 28),
    ("shapes", 448),
    ("chart", 56),
    ("chart", 224),
    ("chart", 448),
    ("document", 224),
    ("document", 448),
    ("table", 224),
    ("table", 448),
)


def rates(settings: SynthSettings, fonts: Fonts, seconds: float) -> tuple[float, float, float]:
    """Images a second drawn, encoded as PNG, and both."""
    drawing = encoding = 0.0
    index = 0
    while drawing + encoding < seconds:
        start = time.process_time()
        drawn = sample(settings, index, fonts)
        middle = time.process_time()
        png_bytes(drawn.image)
        drawing, encoding, index = drawing + middle - start, encoding + time.process_time() - middle, index + 1
    return index / drawing, index / encoding, index / (drawing + encoding)


def main() -> int:
    """Measure every case and print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    language = "both" if system_font("ko") else "en"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, Python {platform.python_version()}, Pillow {PIL.__version__}, {date.today()}")  # noqa: DTZ011
    print(f"{language}, images a second of one core's processor time\n")
    print(f"{'kind':10}{'pixels':>8}{'drawn':>9}{'encoded':>9}{'both':>9}")
    for kind, size in CASES:
        settings = SynthSettings(kind=kind, count=1, image_size=size, language=language)  # type: ignore[arg-type]
        fonts = find_fonts(settings, Path())
        sample(settings, 0, fonts)
        drawn, encoded, both = rates(settings, fonts, seconds)
        print(f"{kind:10}{size:>8}{drawn:>9.0f}{encoded:>9.0f}{both:>9.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

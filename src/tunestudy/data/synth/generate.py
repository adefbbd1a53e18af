"""Many samples, drawn by one process or several: the same bytes in the same order either way."""

import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth.canvas import png_bytes
from tunestudy.data.synth.fonts import Fonts, find_fonts
from tunestudy.data.synth.sample import SynthSample, sample

CHUNK = 32
"""Samples that a process draws at a time."""
AHEAD = 3
"""Chunks per process that are drawn before they are asked for: memory stays bounded whatever the count."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample with its image as PNG; `sample.image` is gone, so that it travels between processes cheaply."""

    sample: SynthSample
    png: bytes


Job = tuple[SynthSettings, int]
"""Settings and an index."""


def generate(settings: SynthSettings, base_dir: Path) -> Iterator[Encoded]:
    """Records 0 … count - 1 of one data set, in `settings.num_workers` processes."""
    fonts = find_fonts(settings, base_dir)
    jobs = ((settings, index) for index in range(settings.count))
    return encode(jobs, fonts, settings.num_workers)


def encode(jobs: Iterator[Job], fonts: Fonts, num_workers: int) -> Generator[Encoded, None, None]:
    """Samples of these jobs in their order; bytes do not depend on `num_workers`."""
    if num_workers == 1:
        for settings, index in jobs:
            yield _encoded(settings, index, fonts)
        return
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _leave_interrupts_to_the_parent) as pool:
        waiting: deque[Future[list[Encoded]]] = deque()
        try:
            while chunk := list(islice(jobs, CHUNK)):
                waiting.append(pool.submit(_encode_chunk, chunk, fonts))
                if len(waiting) > AHEAD * num_workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _encode_chunk(jobs: Sequence[Job], fonts: Fonts) -> list[Encoded]:
    return [_encoded(settings, index, fonts) for settings, index in jobs]


def _encoded(settings: SynthSettings, index: int, fonts: Fonts) -> Encoded:
    drawn = sample(settings, index, fonts)
    no_image: Any = None
    return Encoded(replace(drawn, image=no_image), png_bytes(drawn.image))

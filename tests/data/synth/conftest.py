"""Samples by the hundred, drawn once per set of options."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "lab"))

from hangul import need_hangul

from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth.sample import SynthSample, sample

Draw = Callable[..., list[SynthSample]]


@cache
def drawn(count: int, options: tuple[tuple[str, Any], ...]) -> list[SynthSample]:
    settings = SynthSettings(count=count, **dict(options))
    return [sample(settings, index) for index in range(count)]


@pytest.fixture
def hangul() -> Path:
    """A font that has Hangul."""
    return need_hangul()


@pytest.fixture
def draw() -> Draw:
    """`draw(count, **options)`: the first samples of these settings; Korean needs a font."""

    def of(count: int, **options: Any) -> list[SynthSample]:
        if options.get("language") in ("ko", "both"):
            need_hangul()
        return drawn(count, tuple(options.items()))

    return of

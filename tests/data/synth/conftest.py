"""Samples by the hundred, drawn once per set of options."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth.fonts import system_font
from tunestudy.data.synth.sample import SynthSample, sample

Draw = Callable[..., list[SynthSample]]


@cache
def drawn(count: int, options: tuple[tuple[str, Any], ...]) -> list[SynthSample]:
    settings = SynthSettings(count=count, **dict(options))
    return [sample(settings, index) for index in range(count)]


def need_hangul() -> Path:
    """This machine's Korean font. Without one the test is skipped, and fails where CI says that all parts are there."""
    found = system_font("ko")
    if found is None:
        reason = "no font draws Hangul: apt-get install fonts-nanum"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found


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

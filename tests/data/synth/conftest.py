"""Samples by the hundred, drawn once per set of options."""

from collections.abc import Callable
from functools import cache
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


@pytest.fixture
def draw() -> Draw:
    """`draw(count, **options)`: the first samples of these settings; without a Korean font, Korean is skipped."""

    def of(count: int, **options: Any) -> list[SynthSample]:
        if options.get("language") in ("ko", "both") and system_font("ko") is None:
            pytest.skip("no font of this machine draws Hangul")
        return drawn(count, tuple(options.items()))

    return of

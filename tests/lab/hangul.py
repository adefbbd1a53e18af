"""This machine's Korean font, for tests that draw."""

import os
from pathlib import Path

import pytest

from tunestudy.data.synth.fonts import system_font


def need_hangul() -> Path:
    """The font. Without one the test is skipped, and fails where CI says that all parts are there."""
    found = system_font("ko")
    if found is None:
        reason = "no font draws Hangul: apt-get install fonts-nanum"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return found

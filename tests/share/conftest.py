"""A hub on loopback that lets `me` write, and the real client of this process led to it."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakehub import FakeHub

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # studies: results folders without any training

TOKEN = "hf_" + "a1B2" * 6
"""Put together here, so that no file of the repository looks as if it held a token."""


@pytest.fixture
def server() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.writers[TOKEN] = "me"
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def login(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Variables and, since the client has read its variables already, its constants."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    for name, value in server.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    without_pauses = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(_http, "time", without_pauses)  # the client's own; the hub may still be slow
    return TOKEN

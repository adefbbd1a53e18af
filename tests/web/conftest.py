"""Studies as the report's tests make them, and a page's application asked without a network."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from starlette.testclient import TestClient
from studies import HELD, Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.web import feed as feeding
from tunestudy.web.app import make_app
from tunestudy.web.feed import Feed
from tunestudy.web.guard import Rules

HALF = Recipe(
    name="half-done",
    failed=(("full", 2),),
    pending=(("lora_r16", 2), ("lora_r16", 3)),
    running=(("lora_r4", 3),),
    unscored=(("lora_r4", 1),),
)


@pytest.fixture
def half(tmp_path: Path) -> Iterator[StudyDir]:
    """A study half-way; a test may change it."""
    yield make_study(tmp_path, HALF)
    for lease in HELD:
        lease.release()
    HELD.clear()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """`served(folder, token=…)`: a client of that study's page; without a token unless one is given. The report's
    tables are left out: their process would take longer than the tests."""
    monkeypatch.setattr(feeding, "FRESH_S", 0.0)
    monkeypatch.setattr(feeding.Maker, "look", lambda maker, state: None)

    def client(folder: Path, token: str | None = None, **rules: Any) -> TestClient:
        app = make_app(Feed(folder), Rules(token=token, port=8765, **rules))
        return TestClient(app, base_url="http://localhost:8765", follow_redirects=False)

    yield client

"""Folders whose content goes while it is looked at."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunestudy.records.listing import entries, size_of


def test_sizes_add_up_and_links_count_nothing(tmp_path):
    for name in ("one", "below/two"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to("one")
    assert size_of(tmp_path) == 10 and size_of(tmp_path / "one") == 5
    assert [path.name for path in entries(tmp_path)] == ["below", "link", "one"]
    assert entries(tmp_path, "li") == [tmp_path / "link"]


def test_what_goes_meanwhile_is_left_out(tmp_path, monkeypatch):
    for name in ("a", "b", "c/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    walk = os.walk

    def walked(path: Path) -> Iterator[Any]:
        for found in walk(path):
            (tmp_path / "a").unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            yield found

    monkeypatch.setattr(os, "walk", walked)
    assert size_of(tmp_path) == 5
    assert size_of(tmp_path / "a") == 0 and entries(tmp_path / "c") == []

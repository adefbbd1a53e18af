"""A launcher's journal: whether it is still where it was made."""

import errno
from pathlib import Path

import pytest

from tunestudy.records import events
from tunestudy.records.events import Journal, read_events


def test_a_journal_that_was_moved_away_is_lost_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_S", 0.0)
    with Journal(tmp_path / "s" / "events", "w") as journal:
        assert journal.look()
        (tmp_path / "s").rename(tmp_path / "elsewhere")
        (tmp_path / "s" / "events").mkdir(parents=True)
        assert not journal.look() and journal.lost
        journal.write("told", a=1)
        (tmp_path / "s" / "events").rmdir()
        (tmp_path / "elsewhere" / "events").rename(tmp_path / "s" / "events")
        assert not journal.look(), "jobs have been stopped for it"
    assert [event["a"] for event in read_events(tmp_path / "s" / "events")] == [1]


def test_a_server_that_does_not_answer_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(_: Path) -> None:
        raise OSError(errno.ESTALE, "stale")

    with Journal(tmp_path / "events", "w") as journal:
        monkeypatch.setattr(Path, "stat", stale)
        looked = journal.look()
        monkeypatch.undo()
    assert looked

"""Times that machines with different clocks can compare."""

import json
import time
from pathlib import Path

import pytest

from tunestudy.records import clock
from tunestudy.records.events import Journal, differing_clocks, last_signs, read_events
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress


def test_a_clock_that_is_off_tells_the_file_servers_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = time.time()
    with Journal(tmp_path, "right") as journal:
        journal.write("first")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    with Journal(tmp_path, "wrong") as journal:
        journal.write("second")
        assert journal.clock_ahead_s == pytest.approx(-7200, abs=30)
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["first", "clock_differs", "second"]
    assert events[-1]["t"] == pytest.approx(right, abs=30)
    assert differing_clocks(events) == {"wrong": pytest.approx(-7200, abs=30)}


def test_a_clock_that_is_set_meanwhile_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    assert clock.now(tmp_path) == pytest.approx(real(), abs=30)
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    assert clock.now(tmp_path) == pytest.approx(real(), abs=30)


def test_where_nothing_can_be_written_the_own_clock_counts(tmp_path: Path) -> None:
    assert clock.ahead_s(tmp_path / "nowhere") == 0.0
    assert not list(tmp_path.iterdir())


def test_the_last_sign_of_an_attempt_that_another_followed(tmp_path: Path) -> None:
    lines = [{"left": {"attempt": 1, "t": 5.5}}, {"left": {"attempt": "x", "t": 1}}, {"left": 3}, {}]
    started = [{"t": 9, "event": "job_started", "job": "a", **line} for line in lines]
    (tmp_path / "w.jsonl").write_text("".join(json.dumps(line) + "\n" for line in started))
    assert last_signs(read_events(tmp_path)) == {("a", 1): 5.5}


def test_a_file_server_whose_clock_is_set_back_turns_no_journal_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([5000.0, 1400.0, 1410.0, 5001.0])
    monkeypatch.setattr(clock, "now", lambda folder: next(times))
    with Journal(tmp_path, "me") as journal:
        for name in ("started", "finished", "started again", "finished again"):
            journal.write(name)
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["started", "finished", "started again", "finished again"]
    assert [event["t"] for event in events] == [5000.0, 5000.0, 5000.0, 5001.0]


def test_time_spent_on_a_job_counts_no_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(JobDir(tmp_path), writes=False)
    monkeypatch.setattr(clock, "now", lambda folder: 0.0)
    assert 0 <= progress.elapsed_s < 60

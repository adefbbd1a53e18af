"""What comes of a line that finds no room, on a real file that must not grow any more."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tunestudy.records import lease
from tunestudy.records.appended import AppendedFile
from tunestudy.records.events import Journal, read_events
from tunestudy.records.lease import Lease
from tunestudy.records.logs import RedactedStream
from tunestudy.records.space import NoSpaceError
from tunestudy.records.tables import TableLog, read_table


@contextmanager
def no_file_beyond(num_bytes: int) -> Iterator[None]:
    """Like a disk that is full there: the last bytes that fit are written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "log")
    file.append(b"one\n")
    with (
        no_file_beyond(6),
        pytest.raises(NoSpaceError, match=r"for a line of log in .*: about 4 B needed"),
    ):
        file.append(b"two\n")
    assert (tmp_path / "log").read_bytes() == b"one\n"
    file.append(b"three\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"one\nthree\n"


def test_a_table_goes_on_after_a_row_that_found_no_room(tmp_path: Path) -> None:
    table = TableLog(tmp_path / "t.csv", ("step", "x"))
    with no_file_beyond((tmp_path / "t.csv").stat().st_size + 2), pytest.raises(NoSpaceError):
        table.append({"step": 1, "x": 0.25})
    table.append({"step": 2, "x": 0.5})
    table.close()
    assert read_table(tmp_path / "t.csv") == [{"step": "2", "x": "0.5"}]


def test_events_wait_for_room_and_end_no_launcher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal(tmp_path, "me") as journal:
        journal.write("first")
        with no_file_beyond((tmp_path / "me.jsonl").stat().st_size + 5):
            journal.write("second")
            journal.write("third")
        assert [event["event"] for event in read_events(tmp_path)] == ["first"]
        journal.write("fourth")
    assert [event["event"] for event in read_events(tmp_path)] == ["first", "second", "third", "fourth"]
    assert capsys.readouterr().err.count("written when there is room") == 1


def test_events_that_never_found_room_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with no_file_beyond(3), Journal(tmp_path, "me") as journal:
        journal.write("first")
        journal.write("second")
    assert "events that are lost: 2" in capsys.readouterr().err
    assert read_events(tmp_path) == []


def test_what_a_log_lost_is_counted_in_it(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    stream = RedactedStream(descriptor)
    with no_file_beyond(0):
        print("one\ntwo", file=stream)
    print("three", file=stream)
    os.close(descriptor)
    assert (tmp_path / "log").read_text() == "(2 lines before this one are lost: the disk was full)\nthree\n"


def test_a_lease_is_given_back_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    held = Lease.acquire(tmp_path / "claim")
    monkeypatch.setattr(lease, "write_json", full)
    held.release()
    assert Lease.holder(tmp_path / "claim") is None

"""The command: where it listens, what it refuses, how it ends."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.records.layout import StudyDir
from tunestudy.web import serve as serving
from tunestudy.web.guard import Rules
from tunestudy.web.sections import Maker
from tunestudy.web.serve import is_cut_short, serve


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0", "with_token": False}, "could read the study"),
        ({"host": "no.such.host.invalid"}, "is no address of this machine"),
        ({"host": "192.0.2.7"}, "cannot be listened on here"),
        ({"port": 70_000}, "between 0"),
        ({"port": -1}, "between 0"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        serve(tmp_path, **options)


def test_a_taken_port_names_a_free_one(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StudyError, match=rf"{port} is taken by another program; free is --port \d+") as told:
            serve(tmp_path, port=port)
        free = int(re.search(r"free is --port (\d+)", str(told.value))[1])
        with socket.socket() as now:
            now.bind(("127.0.0.1", free))


def test_a_name_of_this_machine_that_means_loopback_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ruled: list[Rules] = []
    monkeypatch.setattr(Maker, "look", lambda maker, state: None)
    monkeypatch.setattr(serving, "_resolve", lambda host: (socket.AF_INET, "127.0.0.1"))
    monkeypatch.setattr(serving, "_run", lambda feed, rules, listening: ruled.append(rules))
    serve(tmp_path, host="My-Machine", port=0)
    address = re.search(r"http://(\S+?)/", capsys.readouterr().out)
    assert address is not None and address[1].startswith("My-Machine:")
    assert ruled[0].is_own_name(address[1])
    assert not ruled[0].is_own_name("a.stranger.example")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_asked_to_end(half: StudyDir, number: int) -> None:
    code = f"from pathlib import Path; from tunestudy.web.serve import serve; serve(Path({str(half.root)!r}), port=0)"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
        assert address, line
        page = urllib.request.urlopen(address[0], timeout=20).read().decode()
        assert "half-done" in page
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address[0].partition("?")[0], timeout=20)
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.splitlines()[-1] == "no longer serving; the study goes on as it was"
    assert "Traceback" not in said and "token=" not in said


def test_only_answers_that_its_end_cuts_short_go_untold() -> None:
    def told(message: str, error: BaseException | None = None) -> logging.LogRecord:
        found = (type(error), error, None) if error else None
        return logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, message, (), found)

    assert is_cut_short(told("Exception in ASGI application\n", asyncio.CancelledError()))
    assert is_cut_short(told("ASGI callable returned without completing response."))
    assert not is_cut_short(told("Exception in ASGI application\n", ValueError("a real one")))
    assert not is_cut_short(told("Cancel 1 running task(s), timeout graceful shutdown exceeded"))

"""Asking a host for its facts."""

import sys

import pytest

from tunestudy.preflight import hosts
from tunestudy.preflight.hosts import MARK, Difference, ask
from tunestudy.study.hosts import Host


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (rf"sys.stdout.buffer.write(b'Gr\374\337 Gott\n{MARK}{{}}\n')", ["ahead_s"]),
        (r"sys.exit(sys.stderr.buffer.write(b'kein Ger\344t\n'))", "kein Ger\ufffdt"),
    ],
    ids=["facts", "complaint"],
)
def test_a_greeting_in_another_encoding_is_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, said: str, found: list[str] | str
) -> None:
    monkeypatch.setattr(hosts, "on_host", lambda *_: [sys.executable, "-Sc", f"import sys; {said}"])
    answer = ask("ssh", Host("h9", 1), [])
    if isinstance(answer, Difference):
        assert isinstance(found, str) and found in answer.message
    else:
        assert list(answer) == found

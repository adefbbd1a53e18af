"""Standard output whose reader leaves: who only prints ends as SIGPIPE would, work goes on unheard."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunestudy.config.streams import UNHEARD, Leavable

STUDY = """\
study: small
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits, held_out: 0.2}}
stages: {base: {data: digits, learning_rate: 1e-3, max_steps: 3}}
variants: {one: {stages: [base]}}
"""


def left_by_its_reader() -> int:
    """The descriptor of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_pipe_without_a_reader(goes_on: bool) -> None:
    raw = Leavable(left_by_its_reader(), "w")
    raw.goes_on = goes_on
    out = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    with contextlib.nullcontext() if goes_on else pytest.raises(SystemExit, match=str(UNHEARD)):
        out.write("ä" * 100_000)
        out.flush()
    out.write("the rest is for nobody")
    out.close()


def test_other_faults_are_not_swallowed() -> None:
    with pytest.raises(OSError, match="No space left"):
        Leavable("/dev/full", "w").write(b"anything")


@pytest.mark.parametrize(
    ("unbuffered", "command", "code"),
    [([], "validate", UNHEARD), (["-u"], "validate", UNHEARD), ([], "schema", UNHEARD), ([], "clean", 0)],
)
def test_commands_with_a_closed_pipe(tmp_path: Path, unbuffered: list[str], command: str, code: int) -> None:
    """`validate` prints less than a buffer holds, `schema` more; `clean` does something beside printing."""
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    words = [command] if command == "schema" else [command, str(study)]
    (tmp_path / "results" / "small").mkdir(parents=True)
    writer = left_by_its_reader()
    line = [sys.executable, *unbuffered, "-m", "tunestudy.cli", *words]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")

"""What people see while jobs run."""

import io

import pytest
from rich.console import Console

from tunestudy.launch.durations import attempts_of, busy_seconds, duration_text
from tunestudy.launch.show import LineDisplay, LiveDisplay, Row, make_row
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir

RUNNING = Row(
    id="a", name="base-1 (v, seed 1)", state="running", phase="train", step=12, total_steps=30, loss=1.25, eta_s=90
)
FAILED = Row(id="b", name="adapt-2 (v, seed 1)", state="failed", note="failed: no space left")


@pytest.mark.parametrize("width", [60, 120])
def test_live_table_ends_with_the_last_state(width):
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=width, height=30)) as display:
        display.update([RUNNING, FAILED])
        display.update([Row(id="a", name="base-1 (v, seed 1)", state="done"), FAILED])
    told = out.getvalue()
    for part in ("base-1 (v, seed 1)", "12/30", "1.2500", "1:30 min", "no space left", "1 failed · 1 done"):
        assert part in told
    assert ("tokens/s" in told) == (width >= 100)


def test_lines_come_once_per_change(capsys):
    display = LineDisplay()
    for state, note in (("waiting", ""), ("running", "started"), ("running", "started"), ("done", "done in 3 s")):
        display.update([Row(id="a", name="base-1", state=state, note=note)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["base-1: started", "base-1: done in 3 s"]


def test_progress_of_a_torn_file_is_unknown_and_notes_are_redacted(tmp_path):
    job = StudyDir(tmp_path).job("base-1")
    job.root.mkdir(parents=True)
    job.progress_json.write_text('{"step": 3, "lo')
    row = make_row("base-1", "base-1", "running", "hf_" + "d" * 30, job)
    assert row.step is None and row.note == "[hidden]"


def test_what_an_ended_attempt_told_is_not_the_state_of_the_next(tmp_path):
    job = StudyDir(tmp_path).job("base-1")
    write_json(job.progress_json, {"phase": "interrupted", "step": 84, "total_steps": 126, "attempt": 1})
    begun = make_row("base-1", "base-1", "running", "started", job, attempt=2)
    assert (begun.phase, begun.step) == ("", None)
    assert make_row("base-1", "base-1", "running", "started", job, attempt=1).step == 84


def test_durations_add_attempts_and_use_the_last_sign_of_life_of_killed_ones(tmp_path):
    study = StudyDir(tmp_path)
    write_json(study.job("a").progress_json, {"t": 130.0, "attempt": 2})
    write_json(study.job("c").progress_json, {"t": 90000.0, "attempt": 2})
    events = [
        {"event": "job_started", "job": "a", "attempt": 1, "t": 100.0},
        {"event": "job_failed", "job": "a", "attempt": 1, "t": 110.0},
        {"event": "job_started", "job": "a", "attempt": 2, "t": 120.0},
        {"event": "job_started", "job": "b", "attempt": 1, "t": 105.0},
        {"event": "job_finished", "job": "b", "attempt": 1, "t": 115.0},
        {"event": "job_started", "job": "c", "attempt": 1, "t": 105.0},
        {"event": "job_started", "job": "c", "attempt": 2, "t": 89995.0, "left": {"attempt": 1, "t": 107.0}},
    ]
    attempts = attempts_of(events, study)
    assert attempts["a"] == [(100.0, 110.0), (120.0, 130.0)] and attempts["b"] == [(105.0, 115.0)]
    assert attempts["c"] == [(105.0, 107.0), (89995.0, 90000.0)], "the night between the two counts for none"
    assert busy_seconds([span for spans in attempts.values() for span in spans]) == 30.0


def test_durations_in_words():
    assert [duration_text(value) for value in (None, 5.4, 75, 7325)] == ["–", "5 s", "1:15 min", "2 h 02"]

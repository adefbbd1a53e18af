"""Logs that grow are read once, and thinned without losing a spike."""

import math
from pathlib import Path

import numpy as np

from tunestudy.records.follow import Tail
from tunestudy.web.series import KEPT, Log, Series

COLUMNS = ("train_loss",)


def values(log: Log) -> list[float]:
    return log.series["train_loss"].mean.tolist() if log.series else []


def test_every_byte_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    tail = Tail(path)
    assert tail.read(1000) == (b"", False)
    path.write_text("one\ntwo\nthr")
    assert tail.read(1000) == (b"one\ntwo\n", False)
    assert tail.read(1000) == (b"", False)
    with open(path, "a") as file:
        file.write("ee\n")
    assert tail.read(1000) == (b"three\n", False)
    path.write_text("one\ntwo\nTHREE\nfour\n")  # longer than before, and not the same
    data, again = tail.read(1000)
    assert (data, again) == (b"one\ntwo\nTHREE\nfour\n", True)
    path.unlink()
    assert tail.read(1000) == (b"", True)


def test_of_a_torn_last_line_nothing_is_left_to_read(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    path.write_text("one\ntwo\nthr")
    tail = Tail(path)
    assert tail.read(6) == (b"one\n", False)
    assert tail.left == 5
    assert tail.read(1000) == (b"two\n", False)
    assert tail.left == 0
    assert tail.read(1000) == (b"", False)
    assert tail.left == 0
    with open(path, "a") as file:
        file.write("ee\nfour\n")
    assert tail.read(7) == (b"three\n", False)
    assert tail.left == 4


def test_a_resumed_job_cuts_its_log_back(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    log = Log(path, COLUMNS)
    path.write_text("epoch,step,train_loss\n0,1,4.0\n0,2,3.0\n0,3,2.0\n")
    log.read(1000)
    assert values(log) == [4.0, 3.0, 2.0]
    path.write_text("epoch,step,train_loss\n0,1,4.0\n")
    log.read(1000)
    assert values(log) == [4.0]


def test_rows_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    path.write_text("epoch,step,train_loss\n0,1,nan\n0,2,\n0,3\n0,4,oops\n0,5,1.5\n\n0,6,inf\n0,7,1.25\n0,8,0.")
    log = Log(path, COLUMNS)
    log.read(10_000)
    assert values(log) == [1.5, 1.25]
    assert log.series["train_loss"].steps.tolist() == [5.0, 7.0]


def test_a_name_with_a_comma_is_quoted_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    path.write_text('epoch,step,"loss/a,b","loss/""c""",train_loss\n0,1,3.0,5.0,4.0\n0,2,1.0,3.0,2.0\n')
    log = Log(path, (*COLUMNS, "loss/a,b"))
    log.read(1000)
    assert values(log) == [4.0, 2.0]
    assert log.series["loss/a,b"].mean.tolist() == [3.0, 1.0]


def test_it_is_read_in_pieces_when_there_is_much(tmp_path: Path) -> None:
    path = tmp_path / "loss_log.csv"
    path.write_text("epoch,step,train_loss\n" + "".join(f"0,{step},{step}\n" for step in range(500)))
    log = Log(path, COLUMNS)
    reads = 0
    while log.read(200) and reads < 100:
        reads += 1
    assert reads > 20 and log.left == 0
    assert values(log) == [float(step) for step in range(500)]


def test_thinning_keeps_every_spike_and_the_mean() -> None:
    series, everything = Series(), np.sin(np.arange(50_000) / 900)
    everything[31_234] = 77.0
    for start in range(0, 50_000, 1111):
        steps = np.arange(start, min(start + 1111, 50_000), dtype=float)
        series.add(steps, everything[steps.astype(int)])
    assert len(series) <= 4 * KEPT
    steps, mean, low, high, rows = series.thinned(200)
    assert len(steps) == 200 and steps[-1] == 49_999
    assert (high.max(), low.min()) == (77.0, everything.min())
    assert math.isclose((mean * rows).sum() / rows.sum(), everything.mean(), rel_tol=1e-9)
    assert rows.sum() == 50_000

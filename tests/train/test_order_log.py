"""What a curriculum sorts by, as loss_log.csv tells it: what the model really saw, step by step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stops import StopAt
from tinyjob import make_job, rows_of, run, tiny_model

from tunestudy.data.curriculum import numbers_of
from tunestudy.records.layout import JobDir

WIDE = tiny_model(initializer_range=0.5)
"""Weights so large that answers differ in how likely they are."""


def told(folder: JobDir) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["order_value"])) for row in rows_of(folder.loss_log)]


def scored(root: Path, **settings: Any) -> JobDir:
    order = {"by": "score", "scorer": "base"}
    return make_job(root, model=WIDE, num_records=40, **{"order": order, "num_train_epochs": 1, **settings})


def test_rows_hold_the_means_of_what_their_steps_are_sorted_by(tmp_path: Path) -> None:
    folder = scored(tmp_path, logging_steps=2, effective_batch_size=4)
    assert run(folder)
    (file,) = folder.study.score_cache.glob("*/values.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ordered = [row["value"] for row in sorted(rows, key=lambda row: (row["value"], row["id"]))]
    means = [float(np.mean(ordered[start : start + 8])) for start in range(0, len(ordered), 8)]
    assert [value for _, value in told(folder)] == pytest.approx(means)
    assert means == sorted(means) and means[0] < means[-1]


def test_a_stop_on_the_way_changes_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "cut").mkdir()
    quiet, cut = (scored(tmp_path / name, logging_steps=3, full_save_steps=2) for name in ("quiet", "cut"))
    assert run(quiet)
    assert not run(cut, stop=StopAt(4))
    assert list(cut.root.glob("checkpoint-*")), "it left before its first step"
    assert run(cut)
    assert told(cut) == told(quiet)


def test_a_random_order_has_no_such_column(tmp_path: Path) -> None:
    folder = scored(tmp_path, order="shuffle", max_steps=2)
    assert run(folder)
    assert "order_value" not in rows_of(folder.loss_log)[0]


def test_numbers_and_text() -> None:
    found = numbers_of([1, None, float("inf"), 2.5])
    assert found is not None and np.array_equal(found, [1.0, np.nan, np.nan, 2.5], equal_nan=True)
    assert numbers_of(["level 2", None]) is None

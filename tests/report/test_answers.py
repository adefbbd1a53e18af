"""Predictions as numbers: both ways of reading agree, units and clusters are right, broken files say nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.report.answers import Shelf, clusters, quick, rows_of, score_of
from tunestudy.report.facts import Score

LIKE_OURS = ['", "correct": true, "score": 1.0,', '"correct": false', "correct", "\\", '\\"', "한글"]
TEXT = st.text(max_size=20) | st.sampled_from(LIKE_OURS)
KEYS = (
    "id", "prediction", "reference", "correct", "score", "understood", "asked", "group", "categories", "images",
    "problem", "others",
)  # fmt: skip
LINE = st.fixed_dictionaries(
    {
        "id": TEXT,
        "prediction": TEXT,
        "reference": TEXT,
        "correct": st.booleans(),
        "score": st.none() | st.floats(0, 1),
        "understood": st.none() | TEXT,
        "asked": TEXT,
        "group": TEXT,
        "categories": st.dictionaries(TEXT | st.just("score"), TEXT, max_size=2),
        "images": st.lists(st.text("abcdef0123456789", min_size=64, max_size=64), max_size=2),
        "problem": TEXT,
        "others": st.dictionaries(TEXT, st.floats(0, 1), max_size=1),
    }
).map(lambda line: {key: line[key] for key in KEYS})


def as_bytes(lines: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "surrogatepass")


def score_at(path: Path, **more: Any) -> Score:
    facts: dict[str, Any] = {
        "benchmark": "b", "kind": "k", "dataset": "d", "version": "1", "rows": None, "primary": "accuracy",
        "metrics": {"accuracy": 0.5}, "rows_sha256": "r", "duration_s": 1.0, "predictions": path,
    }  # fmt: skip
    return Score(**facts | more)


@given(st.lists(LINE, min_size=1, max_size=3))
@settings(max_examples=60)
def test_the_quick_way_reads_what_json_reads(lines: list[dict[str, Any]]) -> None:
    """Whatever a model wrote, also what looks like our own keys."""
    expected = [float(line["correct"]) if line["score"] is None else line["score"] for line in lines]
    written = as_bytes(lines).removesuffix(b"\n").split(b"\n")
    assert rows_of(written) == lines and [score_of(row) for row in rows_of(written)] == expected
    assert quick(written) in (expected, None)
    assert quick(written) is not None or any("correct" in line["categories"] | line["others"] for line in lines)


def test_old_lines_without_a_score_are_read() -> None:
    data = as_bytes([{"id": "a", "prediction": "3", "reference": "3", "correct": True}, {"id": "b", "correct": False}])
    assert quick(data.split(b"\n")) is None
    assert [score_of(row) for row in rows_of(data.split(b"\n"))] == [1.0, 0.0]


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"id": "a"}', '{"id": "a", "correct": true, "score": 3}', "[]", '{"id": "a", "score": "x"}', "\0"],
)
def test_a_broken_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    assert Shelf().answers(score_at(tmp_path / "p.jsonl")) is None
    assert Shelf().answers(score_at(tmp_path / "absent")) is None


def test_a_group_is_worth_its_worst_row_and_other_rows_themselves(tmp_path: Path) -> None:
    rows = [("b", "g", 1.0), ("a", "g", 0.25), ("c", "", 1.0), ("d", "h", 1.0), ("e", "h", 1.0)]
    data = as_bytes([{"id": i, "correct": s == 1, "score": s, "group": g} for i, g, s in rows])
    (tmp_path / "p.jsonl").write_bytes(data)
    together = Shelf().answers(score_at(tmp_path / "p.jsonl", aggregate="all_of_group"))
    apart = Shelf().answers(score_at(tmp_path / "p.jsonl"))
    assert together is not None and apart is not None
    assert together.units.tolist() == [0.25, 1.0, 1.0] and together.questions.units == 3
    assert apart.units.tolist() == [0.25, 1.0, 1.0, 1.0, 1.0]
    assert apart.questions.ids == ("a", "b", "c", "d", "e") and apart.lines == (1, 0, 2, 3, 4)


def test_jobs_with_the_same_rows_share_their_questions(tmp_path: Path) -> None:
    shelf = Shelf()
    for name, right in (("one", True), ("two", False), ("three", True)):
        ids = ["a", "c"] if name == "three" else ["a", "b"]
        (tmp_path / name).write_bytes(as_bytes([{"id": i, "correct": right, "score": None} for i in ids]))
    one, two, three = (shelf.answers(score_at(tmp_path / name)) for name in ("one", "two", "three"))
    assert one is not None and two is not None and three is not None
    assert one.questions is two.questions and one.questions is not three.questions
    assert (one.rows.tolist(), two.rows.tolist()) == ([1, 1], [0, 0])


def test_units_that_share_an_image_are_one_cluster_also_by_way_of_others() -> None:
    assert clusters([["x"], ["y"], ["x", "z"], [], ["z"], []]).tolist() == [0, 1, 0, 2, 0, 3]


@given(st.lists(st.lists(st.integers(0, 6).map(str), max_size=2), max_size=8))
def test_clusters_are_the_connected_components(images: list[list[str]]) -> None:
    """Against repeated squaring of the matrix that says which units share an image."""
    near = np.array([[bool(set(a) & set(b)) or i == j for j, b in enumerate(images)] for i, a in enumerate(images)])
    near = near.reshape(len(images), len(images)).astype(int)
    for _ in range(4):
        near = (near @ near > 0).astype(int)
    found = clusters(images)
    assert [[bool(x) for x in row] for row in near] == [[bool(a == b) for b in found] for a in found]
    assert sorted(set(found.tolist())) == list(range(len(set(found.tolist()))))

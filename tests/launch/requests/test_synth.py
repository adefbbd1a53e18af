"""`tunestudy synth` as users meet it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.requests.synth import make_synth, settings_for


def synth(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunestudy.cli", "synth", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_set_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "new" / "set"
    done = synth(out, "--kind", "shapes", "--count", 5, "--seed", 3, "image_size=28", "tasks=[colour, count]")
    assert done.returncode == Exit.DONE, done.stderr
    assert "5 records in" in done.stdout and str(out / "data.jsonl") in done.stdout
    rows = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    assert {row["category"] for row in rows} <= {"shapes.colour", "shapes.count"}
    assert rows[0]["id"] == "shapes-3-0000000"
    again = synth(out, "--kind", "shapes", "--count", 5)
    assert again.returncode == Exit.STUDY_WRONG and "already and not empty" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kinds": ["charts"]}, "there is no `charts`; did you mean `chart`"),
        ({"shape": "chartQA"}, "did you mean `chartqa`"),
        ({"file_format": "json"}, "did you mean `jsonl`"),
        ({"count": 0}, "at least 1"),
        ({"shape": "wtq", "kinds": ["chart"]}, "wtq is made of table, not chart"),
        ({"shape": "wtq", "options": ["tasks=[statement]"]}, "wtq has no place for statement"),
        ({"shape": "kdtc", "options": ["answer_form=open"]}, "kdtc needs choice"),
        ({"shape": "kdtc", "options": ["num_choices=5"]}, "kdtc needs 4"),
        ({"options": ["image_sise=3"]}, "did you mean `image_size`"),
        ({"options": ["language=kr"]}, "must be one of en, ko, both"),
        ({"options": ["image_size"]}, "written key=value"),
        ({"options": ["count=3"]}, "said by --kind, --count"),
        ({"kinds": ["chart"], "options": ["image_size=40"]}, "a chart needs at least 56 pixels"),
    ],
)
def test_mistakes_are_told_before_anything_is_drawn(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    plain = {"kinds": [], "count": 3, "shape": "plain", "file_format": "jsonl", "workers": 1, "options": []}
    with pytest.raises(StudyError, match=told):
        make_synth(tmp_path / "set", **{**plain, **changes})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_shape_asks_only_what_it_can_hold() -> None:
    assert set(settings_for("docvqa", "document", {"count": 1}).chosen_tasks) == {"line", "field"}
    assert settings_for("docvqa", "document", {"count": 1, "image_size": 56}).chosen_tasks == ("line",)
    assert settings_for("tabfact", "table", {"count": 1}).chosen_tasks == ("statement",)
    assert settings_for("kdtc", "chart", {"count": 1}).answer_form == "choice"
    assert settings_for("wtq", "table", {"count": 1, "tasks": ["sum"]}).chosen_tasks == ("sum",)

"""Rows of a study's own benchmarks: none is lost for a broken image."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))

from publicsets import job_of
from tinyeyes import eyes_of, picture, tiny

from tunestudy.bench.rows import read_rows
from tunestudy.bench.summary import summary_of
from tunestudy.bench.tasks import exact_match, multiple_choice
from tunestudy.config.benchmark import ExactMatch, MultipleChoice
from tunestudy.config.errors import StudyError
from tunestudy.models.loaded import LoadedModel

RECORDS = {"whole": picture(0), "cut": picture(1)[:200], "page": b"<!doctype html>not here"}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny("internvl")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, data in RECORDS.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    lines = [
        {"id": name, "image": f"{name}.png", "prompt": "which?", "completion": "a", "choices": ["a", "b"]}
        for name in (*RECORDS, "gone")
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("settings", [ExactMatch(dataset="d"), MultipleChoice(dataset="d")])
def test_a_broken_image_counts_as_wrong(study: Path, model: LoadedModel, settings: ExactMatch | MultipleChoice) -> None:
    job, folder = job_of(study, {"type": "file", "path": "data.jsonl", "max_rejected": 0.5})
    rows = read_rows("mine", settings, job, folder, model.tokenizer, eyes_of(model, study))
    asked = [row.id for row in rows if not row.problem]
    assert asked == ["whole"]
    answering = SimpleNamespace(
        generate=lambda questions, max_new_tokens: ["a"] * len(questions),
        option_log_probabilities=lambda asked: [[-1.0, -2.0] for _ in asked],
        ids_of=lambda text: (1,),
    )
    kind = exact_match if isinstance(settings, ExactMatch) else multiple_choice
    scored = kind.score(answering, rows, settings)
    assert {row.id: row.correct for row in scored} == {row.id: row.id == "whole" for row in rows}
    told = summary_of(settings, scored)
    assert told["metrics"]["accuracy"] == 1 / len(rows)
    assert told["counts"] == {"undecodable": len(rows) - 1}


def test_a_model_without_eyes_is_told(study: Path, model: LoadedModel) -> None:
    job, folder = job_of(study, {"type": "file", "path": "data.jsonl", "max_rejected": 0.5})
    with pytest.raises(StudyError, match="takes none"):
        read_rows("mine", ExactMatch(dataset="d"), job, folder, model.tokenizer)

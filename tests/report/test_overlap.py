"""What the report says of rows that were trained on: numbers by hand, and nothing where nothing is known."""

import json
from pathlib import Path
from typing import Any

import pytest
from studies import ROWS, Recipe, make_study

from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.findings import warnings_of
from tunestudy.report.overlap import clean, cleaned, compared, overlap_warnings

KNOWN = {f"digit-{i}" for i in range(30)}
IMAGES = {f"digit-{i}" for i in range(30, 50)}


@pytest.fixture
def study_dir(tmp_path: Path) -> StudyDir:
    return make_study(tmp_path, Recipe(seeds=(1, 2), accuracy={"untrained": 0.1, "full": 0.9, "lora": 0.8}))


def adapted(study_dir: StudyDir) -> list[JobDir]:
    """The jobs of `full` and `lora`, one per seed each."""
    return [JobDir(path) for path in sorted(study_dir.jobs.glob("adapt-*"))]


def tell(folder: JobDir, **changes: Any) -> None:
    fingerprint = json.loads(folder.eval_json("digits").read_text(encoding="utf-8"))["fingerprint"]
    of_set = {
        "dataset": "scans",
        "stages": ["adapt"],
        "records": 900,
        "found": {
            "text+image": {"rows": 30, "examples": [[f"digit-{i}", f"scan-{i}"] for i in range(5)]},
            "image": {"rows": 20, "examples": [["digit-30", "<b>scan</b>"]]},
        },
    }
    told = {
        "fingerprint": fingerprint,
        "rows": ROWS,
        "sets": [of_set, {"dataset": "<i>moved</i>", "stages": ["base"], "not_checked": "moved.jsonl does not exist"}],
        "row_ids": {"text+image": sorted(KNOWN), "image": sorted(IMAGES)},
    }
    folder.overlap("digits").write_text(json.dumps({**told, **changes}), encoding="utf-8")


def mean_without(folders: list[JobDir], out: set[str]) -> float:
    """By hand: mean over seeds of the share of right rows that are not left out."""
    shares = []
    for folder in folders:
        rows = [json.loads(line) for line in folder.predictions("digits").read_text(encoding="utf-8").splitlines()]
        left = [row["correct"] for row in rows if row["id"] not in out]
        shares.append(sum(left) / len(left))
    return sum(shares) / len(shares)


def of_variant(study_dir: StudyDir, variant: str) -> list[JobDir]:
    return [f for f in adapted(study_dir) if variant in json.loads(f.job_json.read_text(encoding="utf-8"))["variants"]]


def test_scores_with_and_without_the_rows(study_dir):
    for folder in adapted(study_dir):
        tell(folder)
    lines = cleaned(collect(study_dir))
    assert [line.variant for line in lines] == ["full", "lora"]
    for line in lines:
        folders = of_variant(study_dir, line.variant)
        assert (line.known, line.seen) == (30, 50)
        assert line.score == pytest.approx(mean_without(folders, set()))
        assert line.without == pytest.approx(mean_without(folders, KNOWN))
        assert line.without_images == pytest.approx(mean_without(folders, KNOWN | IMAGES))


def test_a_group_counts_once_and_is_known_if_one_of_its_rows_is(study_dir):
    folder = of_variant(study_dir, "full")[0]
    rows = [
        {
            "id": f"q{i}#{turn}",
            "group": f"q{i}",
            "prediction": "",
            "reference": "",
            "correct": i < 6,
            "score": float(i < 6),
        }
        for i in range(8)
        for turn in range(4)
    ]
    rows[0] |= {"score": 0.0, "correct": False}
    folder.predictions("digits").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    told = json.loads(folder.eval_json("digits").read_text(encoding="utf-8"))
    folder.eval_json("digits").write_text(json.dumps({**told, "metrics": {"accuracy": 5 / 8}}), encoding="utf-8")
    tell(folder, row_ids={"text+image": ["q1#2", "q7#0"]})
    [line] = cleaned(collect(study_dir))
    assert (line.score, line.known, line.without) == (pytest.approx(5 / 8), 2, pytest.approx(4 / 6))


def test_warnings_name_numbers_and_gaps_once_for_all_seeds(study_dir):
    for folder in adapted(study_dir):
        tell(folder)
    facts = collect(study_dir)
    lines = list(overlap_warnings(facts))
    assert len(lines) == 3
    assert f"30 rows of {ROWS} (12.5 %) with the same question, same image as records of scans" in lines[0]
    assert "full, lora" in lines[0]
    assert "20 rows" in lines[1]
    assert "not checked for overlap against <i>moved</i>: moved.jsonl does not exist" in lines[2]
    assert set(lines) <= set(warnings_of(facts, make_headline(facts)))


def test_variants_that_met_a_set_in_other_stages_are_told_together(study_dir):
    for folder in adapted(study_dir):
        found = {"text": {"rows": 7, "examples": []}}
        stage = "long" if folder in of_variant(study_dir, "full") else "short"
        tell(folder, sets=[{"dataset": "scans", "stages": ["base", stage], "records": 900, "found": found}])
    [line] = compared(collect(study_dir))
    assert line.variants == "full, lora" and line.stages == "base, long, short"
    assert len(list(overlap_warnings(collect(study_dir)))) == 1


def test_the_page_shows_it_escaped(study_dir):
    for folder in adapted(study_dir):
        tell(folder)
    build_report(study_dir)
    page = (study_dir.report / "index.html").read_text(encoding="utf-8")
    assert 'id="overlap"' in page
    assert "30 rows (12.5 %), same question, same image" in page
    assert "digit-0 = scan-0" in page
    assert "&lt;b&gt;scan&lt;/b&gt;" in page
    assert "<i>moved</i>" not in page
    assert "not checked: moved.jsonl does not exist" in page


def test_without_a_search_there_is_no_section_and_no_claim(study_dir):
    facts = collect(study_dir)
    assert compared(facts) == cleaned(facts) == list(overlap_warnings(facts)) == []
    build_report(study_dir)
    assert 'id="overlap"' not in (study_dir.report / "index.html").read_text(encoding="utf-8")


def test_a_clean_set_is_shown_as_such_without_a_warning(study_dir):
    for folder in adapted(study_dir):
        tell(folder, sets=[{"dataset": "scans", "stages": ["adapt"], "records": 900, "found": {}}], row_ids={})
    facts = collect(study_dir)
    [line] = compared(facts)
    assert (line.dataset, line.found, line.not_checked) == ("scans", (), "")
    assert clean([line]) == [("digits", "scans")]
    build_report(study_dir)
    page = (study_dir.report / "index.html").read_text(encoding="utf-8")
    assert "Nothing found" in page and "Row = record" not in page
    assert list(overlap_warnings(facts)) == []
    assert cleaned(facts) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "of an older definition"},
        {"sets": 7, "row_ids": [1]},
        {"sets": ["x", None], "row_ids": {"text": 3}},
        {"sets": [{"found": {"text": {"rows": "many", "examples": 4}}}]},
    ],
)
def test_files_that_anyone_may_have_touched_break_nothing(study_dir, changes):
    tell(adapted(study_dir)[0], **changes)
    build_report(study_dir)
    assert not any("same question" in line for line in overlap_warnings(collect(study_dir)))


def test_a_search_that_was_left_out_is_said(study_dir):
    for folder in adapted(study_dir):
        tell(folder, sets=[], row_ids={}, not_checked="`overlap: false` in the benchmark")
    [line] = overlap_warnings(collect(study_dir))
    assert line == "benchmark digits was not checked for overlap: `overlap: false` in the benchmark"

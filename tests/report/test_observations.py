"""Sentences above the tables: what tells variants apart comes first, and ties are told as ties."""

import json
from dataclasses import replace
from pathlib import Path

from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.observations import headline_sentence, observations

NOBODY_KNOWS = Recipe(
    accuracy={"full": -1.0, "lora_r4": -1.0, "lora_r16": -1.0}, benchmarks=("digits", "other_digits"), descriptions={}
)


def sentences(study: StudyDir) -> tuple[str, list[str]]:
    facts = collect(study)
    headline = make_headline(facts)
    return headline_sentence(facts, headline), list(observations(facts, headline))


def test_a_tie_of_all_has_no_best_variant(tmp_path: Path) -> None:
    first, every = sentences(make_study(tmp_path, NOBODY_KNOWS))
    assert first == "All variants score the same on digits (accuracy 0.000), other_digits (accuracy 0.000)."
    assert first in every and not any("highest" in line for line in every)


def test_what_tells_variants_apart_comes_first(tmp_path: Path) -> None:
    study = make_study(tmp_path, NOBODY_KNOWS)
    for job in study.jobs.iterdir():
        score = job / "eval" / "other_digits.json"
        if score.is_file() and json.loads((job / "job.json").read_text())["variants"] == ["lora_r4"]:
            told = json.loads(score.read_text())
            score.write_text(json.dumps({**told, "metrics": {"accuracy": 0.5}}))
    first, every = sentences(study)
    assert first.startswith("lora_r4 has the highest accuracy on other_digits: 0.500")
    assert "All variants score the same on digits (accuracy 0.000)." in every


def test_benchmarks_fold_where_there_are_many(tmp_path: Path) -> None:
    names = tuple(f"digits_{place}" for place in range(21))
    page = {}
    for count in (20, 21):
        recipe = replace(NOBODY_KNOWS, benchmarks=names[:count], seeds=(1,))
        study = make_study(tmp_path / str(count), recipe)
        build_report(study)
        page[count] = (study.report / "index.html").read_text()
    assert page[20].count('<details class="benchmark"') == 0
    assert page[21].count('<details class="benchmark"') == 21
    assert page[21].count('<details class="benchmark" open>') == 1

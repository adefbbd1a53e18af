"""What samples say, from files: units, clusters, pairs, categories, regressions in words, counts, other ways."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import SHAPES, make_evaluated, write_evaluation
from studies import Recipe, make_study

from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.report.against import against_baseline, sentences
from tunestudy.report.breakdown import breakdowns
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import Headline, make_headline
from tunestudy.report.facts import StudyFacts
from tunestudy.report.findings import warnings_of
from tunestudy.report.sample_level import SMALL


@pytest.fixture(scope="module")
def read(vision: StudyDir) -> tuple[StudyFacts, Headline]:
    facts = collect(vision)
    return facts, make_headline(facts)


def lines_of(study_dir: StudyDir, variant: str, benchmark: str) -> dict[int, list[dict[str, Any]]]:
    """By seed, read apart from the report."""
    found = {}
    for path in study_dir.jobs.glob(f"*/eval/{benchmark}.predictions.jsonl"):
        job = json.loads((path.parent.parent / "job.json").read_text())
        if variant == (job["variants"][0] if job["stage"] == "base" else job["variants"][-1]):
            found[job["seed"]] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def test_a_circular_question_counts_once(vision: StudyDir, read: tuple[StudyFacts, Headline]) -> None:
    samples = read[1].samples["full", "mmbench_ko"]
    worst: dict[tuple[int, str], float] = {}
    for seed, lines in lines_of(vision, "full", "mmbench_ko").items():
        for row in lines:
            worst[seed, row["group"]] = min(worst.get((seed, row["group"]), 1.0), row["score"])
    assert (samples.units, samples.grouped, len(worst)) == (120, True, 360)
    assert samples.score.mean == pytest.approx(np.mean(list(worst.values())))


def test_questions_of_one_page_are_a_cluster(read: tuple[StudyFacts, Headline]) -> None:
    samples = read[1].samples["full", "docvqa"]
    assert (samples.units, samples.clusters, samples.clustered) == (150, 50, True)
    assert samples.paired is not None and samples.paired.test == "sign-flip, random"
    assert read[1].samples["full", "chartqa"].clusters == 200


def test_pairs_are_rows_of_the_same_seed(vision: StudyDir, read: tuple[StudyFacts, Headline]) -> None:
    paired = read[1].samples["lora_r4", "chartqa"].paired
    ours, theirs = lines_of(vision, "lora_r4", "chartqa"), lines_of(vision, "untrained", "chartqa")
    deltas = [
        (a["score"] - b["score"]) for seed in ours for a, b in zip(ours[seed], theirs[seed], strict=True)
    ]  # fmt: skip
    assert paired is not None and len(deltas) == 600
    assert paired.delta.mean == pytest.approx(np.mean(deltas))
    assert (paired.gained, paired.lost) == (sum(d > 0 for d in deltas), sum(d < 0 for d in deltas))
    assert paired.seeds == (1, 2, 3) and paired.test == "sign-flip, exact"


def test_tests_over_samples_are_corrected_together_and_apart_from_seeds(read: tuple[StudyFacts, Headline]) -> None:
    tested = [samples.paired for samples in read[1].samples.values() if samples.paired]
    assert len(tested) == read[1].comparisons == 12
    least = min(tested, key=lambda paired: paired.p)
    assert least.p_corrected == pytest.approx(12 * least.p)
    assert all(paired.p <= paired.p_corrected <= 1 for paired in tested)
    assert all(cell.comparison.p >= 0.25 for cell in read[1].cells if cell.comparison)  # over three seeds


def test_one_seed_of_rights_and_wrongs_is_mcnemars(tmp_path: Path) -> None:
    headline = make_headline(collect(make_study(tmp_path, Recipe(seeds=(7,)))))
    paired = headline.samples["full", "digits"].paired
    assert paired is not None and paired.test == "McNemar, exact" and paired.p < 1e-20


def test_a_metric_that_is_no_mean_of_samples_gets_no_interval_over_them(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        score = json.loads(path.read_text())
        path.write_text(json.dumps({**score, "primary": "perplexity", "metrics": {"perplexity": 7.5}}))
    assert make_headline(collect(study_dir)).samples == {}
    build_report(study_dir)
    assert (study_dir.report / "results_samples.csv").read_text().count("\n") == 1


def test_other_rows_or_no_rows_are_not_paired(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    by_variant = {
        json.loads(p.read_text())["variants"][-1]: JobDir(p.parent) for p in study_dir.jobs.glob("adapt*/job.json")
    }
    by_variant["full"].predictions("digits").unlink()
    lines = by_variant["lora_r4"].predictions("digits").read_text().replace('"digit-0"', '"digit-x"')
    by_variant["lora_r4"].predictions("digits").write_text(lines)
    samples = make_headline(collect(study_dir)).samples
    assert ("full", "digits") not in samples
    assert samples["lora_r4", "digits"].paired is None and samples["lora_r16", "digits"].paired is not None


def test_categories_are_their_own_means_and_small_ones_are_marked(
    vision: StudyDir, read: tuple[StudyFacts, Headline]
) -> None:
    (kind, split) = breakdowns(*read, "mmbench_ko")
    assert (kind.column, split.column) == ("category", "l2-category")
    (only,) = breakdowns(*read, "chartqa")  # every row has the same split: nothing to break down
    assert only.column == "type" and {row.value: row.units for row in only.rows} == {"human": 133, "augmented": 67}
    for job in read[0].last_jobs("full"):
        told = job.scores["mmbench_ko"].categories["category"]
        assert {value: units for value, (units, _) in told.items()} == {row.value: row.units for row in kind.rows}
    expected = np.mean([job.scores["chartqa"].categories["type"]["human"][1] for job in read[0].last_jobs("full")])
    cell = only.rows[0].cells["full"]
    assert cell.score.mean == pytest.approx(expected)
    assert cell.score.low < cell.score.mean < cell.score.high and cell.delta is not None
    assert all(row.small == (row.units < SMALL) for row in (*kind.rows, *split.rows)) and kind.rows[0].small


def test_without_predictions_categories_come_from_the_summaries(tmp_path: Path) -> None:
    study_dir = make_evaluated(tmp_path, Recipe(benchmarks=("chartqa",), seeds=(1,)), checkpoints=False)
    for path in study_dir.jobs.glob("*/eval/*.jsonl"):
        path.unlink()
    facts = collect(study_dir)
    headline = make_headline(facts)
    (found,) = [part for part in breakdowns(facts, headline, "chartqa") if part.column == "type"]
    cell = found.rows[0].cells["full"]
    (job,) = facts.last_jobs("full")
    assert cell.score.mean == job.scores["chartqa"].categories["type"]["human"][1] and cell.score.low is None
    assert headline.samples == {}


def test_losses_come_in_words_and_none_says_so(read: tuple[StudyFacts, Headline], tmp_path: Path) -> None:
    against = against_baseline(*read)
    lost = {(change.variant, change.benchmark) for change in against.regressions if change.category is None}
    assert lost == {("full", "mmbench_ko"), ("lora_r4", "docvqa")}
    said = sentences(against)
    assert said[0].startswith("full lost on mmbench_ko: −0.1") and "gained on digits: +0.8" in said[0]
    assert "lost within mmbench_ko, category" in said[0] and "No variant is worse" not in " ".join(said)
    facts = collect(make_study(tmp_path))
    assert sentences(against_baseline(facts, make_headline(facts)))[-1] == (
        "No variant is worse than untrained on any benchmark beyond its 95 % interval."
    )


def test_where_only_seeds_are_known_lower_losses_are_gains(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        score = json.loads(path.read_text())
        path.write_text(json.dumps({**score, "primary": "loss", "metrics": {"loss": 3 - score["metrics"]["accuracy"]}}))
    facts = collect(study_dir)
    against = against_baseline(facts, make_headline(facts))
    assert {change.over for change in against.changes} == {"seeds"} and against.regressions == []
    assert all(change.delta < 0 and change.better for change in against.changes) and len(against.changes) == 3


def test_the_csv_says_what_was_worked_out(vision: StudyDir, read: tuple[StudyFacts, Headline]) -> None:
    text = (vision.report / "results_samples.csv").read_text()
    assert text.splitlines()[0] == (
        "variant,benchmark,metric,n,mean,ci_low,ci_high,delta,delta_ci_low,delta_ci_high,p_value"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 16 and (vision.report / "results.csv").read_text().startswith(
        "variant,benchmark,metric,mean,std,"
    )
    for row in rows:
        samples = read[1].samples[row["variant"], row["benchmark"]]
        assert int(row["n"]) == samples.units
        assert float(row["ci_low"]) == pytest.approx(samples.score.low)
        assert (row["delta"] == "") == (row["variant"] == "untrained") == (samples.paired is None)
        assert samples.paired is None or float(row["p_value"]) == pytest.approx(samples.paired.p_corrected)


def test_other_ways_stand_beside_the_reported_value(vision: StudyDir, read: tuple[StudyFacts, Headline]) -> None:
    ways = [cell for cell in read[1].cells if cell.way]
    assert {cell.benchmark for cell in ways} == {"docvqa"} and {cell.way for cell in ways} == {"lmms-eval"}
    told = next(cell for cell in ways if cell.variant == "full")
    lines = lines_of(vision, "full", "docvqa")
    expected = np.mean([row["others"].get("lmms-eval", row["score"]) for of in lines.values() for row in of])
    assert told.summary.mean == pytest.approx(expected)
    assert "lmms-eval 0." in (vision.report / "index.html").read_text()


def test_a_way_that_differs_at_one_seed_only_is_the_reported_value_at_the_others(tmp_path: Path) -> None:
    study_dir = make_evaluated(tmp_path, Recipe(benchmarks=("docvqa",)), checkpoints=False)
    path = next(iter(sorted(study_dir.jobs.glob("adapt-*/eval/docvqa.json"))))
    score = json.loads(path.read_text())
    path.write_text(json.dumps({**score, "metrics": {"ANLS": score["metrics"]["ANLS"]}}))
    cells = make_headline(collect(study_dir)).cells
    assert all(len(cell.points) == 3 for cell in cells if cell.way)


def test_rows_counted_wrong_for_a_reason_are_a_warning(read: tuple[StudyFacts, Headline]) -> None:
    found = [line for line in warnings_of(*read) if line.startswith("benchmark chartqa")]
    assert len(found) == 2
    assert "answers in which none was found count as wrong (untrained " in found[0] and " of 600" in found[0]
    assert "could not be decoded count as wrong (untrained 3 of 600, full 3 of 600" in found[1]


def test_checkpoints_scores_are_a_curve_that_ends_in_the_result(vision: StudyDir) -> None:
    (job,) = [job for job in collect(vision).last_jobs("full") if job.seed == 2]
    assert job.score_log["step"] == [50, 100, 150, 200] and "digits" not in job.score_log
    assert job.score_log["chartqa"][-1] == job.scores["chartqa"].metrics["relaxed accuracy"]
    at = json.loads((vision.job(job.id).eval / "checkpoint-100" / "chartqa.json").read_text())
    assert job.score_log["chartqa"][1] == at["metrics"]["relaxed accuracy"]


def test_checkpoints_of_an_older_definition_do_not_count(tmp_path: Path) -> None:
    study_dir = make_evaluated(tmp_path, Recipe(benchmarks=("chartqa",), seeds=(1,)))
    for path in study_dir.jobs.glob("*/eval/checkpoint-*/chartqa.json"):
        stale = path.parent.name == "checkpoint-50"
        path.write_text(json.dumps({**json.loads(path.read_text()), **({"fingerprint": "0"} if stale else {})}))
    (study_dir.jobs / "x").mkdir()
    for job in collect(study_dir).last_jobs("full"):
        assert job.score_log["step"][0] == 50 and np.isnan(job.score_log["chartqa"][0])
        assert np.isfinite(job.score_log["chartqa"][1:]).all()
    for path in study_dir.jobs.glob("*/eval/checkpoint-*"):
        shutil.rmtree(path)
    assert all(job.score_log == {} for job in collect(study_dir).jobs)


def test_a_summary_that_no_one_wrote_right_still_reads(tmp_path: Path) -> None:
    study_dir = make_evaluated(tmp_path, Recipe(benchmarks=("chartqa",), seeds=(1,)), checkpoints=False)
    odd = {"counts": {"unparsed": "many", "undecodable": 2.5}, "categories": {"type": [1], "x": {"y": {"n": "z"}}}}
    for path in study_dir.jobs.glob("*/eval/chartqa.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **odd, "title": 7, "aggregate": None}))
    assert build_report(study_dir) == 0
    (job,) = collect(study_dir).last_jobs("full")
    assert (job.scores["chartqa"].counts, job.scores["chartqa"].categories) == ({}, {"type": {}, "x": {}})


def test_the_made_summaries_are_of_the_made_lines(vision: StudyDir) -> None:
    """The fixture itself: what it says it scored is what its lines hold."""
    folder = next(JobDir(path.parent) for path in vision.jobs.glob("adapt-*/job.json"))
    before = json.loads(folder.eval_json("docvqa").read_text())
    copy = JobDir(vision.root / "scratch" / "jobs" / "one")
    shutil.copytree(folder.root, copy.root)
    lines = write_evaluation(copy, "docvqa", 0.5, "again")
    after = json.loads(copy.eval_json("docvqa").read_text())
    shutil.rmtree(vision.root / "scratch")
    assert (
        after["metrics"]["ANLS"] == pytest.approx(np.mean([row["score"] for row in lines])) != before["metrics"]["ANLS"]
    )
    assert SHAPES["docvqa"].metric in after["metrics"]

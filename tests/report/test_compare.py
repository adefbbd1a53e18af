"""The headline from files: pairing by seed, missing seeds, other rows, enough and too few seeds."""

import json
from pathlib import Path
from typing import Any

import pytest
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.against import against_baseline
from tunestudy.report.collect import collect
from tunestudy.report.compare import Cell, Headline, make_headline
from tunestudy.report.direction import direction_of
from tunestudy.report.observations import headline_sentence
from tunestudy.report.page import render_page
from tunestudy.report.tables import to_latex


def headline_of(study_dir: StudyDir) -> Headline:
    return make_headline(collect(study_dir))


def cell_of(headline: Headline, variant: str, benchmark: str = "digits") -> Cell:
    return next(c for c in headline.cells if (c.variant, c.benchmark) == (variant, benchmark) and c.primary)


def scores_on_disk(study_dir: StudyDir, variant: str) -> dict[int, float]:
    """Read without the report's code: every job that only this variant ends in."""
    found = {}
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        job = json.loads((path.parent.parent / "job.json").read_text())
        ends = job["variants"][0] if job["stage"] == "base" else job["variants"][-1]
        if ends == variant:
            found[job["seed"]] = json.loads(path.read_text())["metrics"]["accuracy"]
    return found


def test_points_are_what_the_files_say_and_pairs_are_seeds(finished: StudyDir) -> None:
    headline = headline_of(finished)
    ours, theirs = scores_on_disk(finished, "full"), scores_on_disk(finished, "untrained")
    cell = cell_of(headline, "full")
    assert cell.points == ours and len(ours) == 3
    assert cell.comparison is not None
    assert cell.comparison.delta.mean == pytest.approx(sum(ours[s] - theirs[s] for s in ours) / 3)
    assert cell_of(headline, "untrained").why_no_comparison == "baseline"
    assert headline.comparisons == 3


def test_three_seeds_cannot_decide_and_the_words_say_so(finished: StudyDir) -> None:
    test = cell_of(headline_of(finished), "full").comparison
    assert test is not None
    assert (test.p, test.p_corrected, test.p_smallest, test.significant) == (0.25, 0.75, 0.75, None)
    assert "cannot decide" in test.verdict and "0.75" in test.verdict


def test_eight_seeds_can(tmp_path: Path) -> None:
    test = cell_of(headline_of(make_study(tmp_path, Recipe(seeds=tuple(range(1, 9))))), "full").comparison
    assert test is not None
    assert test.p == 2 / 2**8 and test.p_corrected == pytest.approx(3 * 2 / 2**8)
    assert test.significant is True and "differs" in test.verdict


def test_a_missing_seed_is_left_out_of_the_pairs_and_named(half: StudyDir) -> None:
    cell = cell_of(headline_of(half), "full")
    assert cell.missing == (2,) and cell.comparison is not None
    assert cell.comparison.seeds == (1, 3) and cell.comparison.delta.n == 2


def test_one_seed_has_a_mean_but_no_spread_and_no_verdict(tmp_path: Path) -> None:
    cell = cell_of(headline_of(make_study(tmp_path, Recipe(seeds=(7,)))), "full")
    assert cell.summary.n == 1 and cell.summary.std is None
    assert cell.comparison is not None and cell.comparison.significant is None


def test_scores_on_other_rows_are_not_compared(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    path = next(
        path
        for path in study_dir.jobs.glob("adapt-*/eval/digits.json")
        if json.loads((path.parent.parent / "job.json").read_text())["variants"] == ["full"]
    )
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows_sha256": "f" * 64}))
    cell = cell_of(headline_of(study_dir), "full")
    assert cell.comparison is None and "other rows" in cell.why_no_comparison


def test_a_score_of_an_older_benchmark_does_not_count(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=(1,)))
    for path in study_dir.jobs.glob("adapt-*/eval/digits.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0" * 64}))
    facts = collect(study_dir)
    assert facts.count("evaluate") == 3
    assert cell_of(make_headline(facts), "full").summary.n == 0


@pytest.mark.parametrize("model", [None, {"architecture": "qwen3", "weights_seed": 0}])
def test_weights_of_one_start_are_scored_once_and_pair_with_every_seed(tmp_path: Path, model: Any) -> None:
    study_dir = make_study(tmp_path, Recipe(pretrained_baseline=True))
    if model is not None:
        resolved = json.loads(study_dir.resolved_yaml.read_text())
        study_dir.resolved_yaml.write_text(json.dumps({**resolved, "model": model}))
    headline = headline_of(study_dir)
    base, full = cell_of(headline, "untrained"), cell_of(headline, "full")
    assert base.fixed and base.summary.n == 1 and base.missing == () and "no seed" in base.summary.note
    assert full.comparison is not None and full.comparison.seeds == (1, 2, 3)


def test_identical_results_give_p_one(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(seeds=tuple(range(1, 8))))
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": {"accuracy": 0.5}}))
    test = cell_of(headline_of(study_dir), "full").comparison
    assert test is not None and test.p_corrected == 1.0 and "identical" in test.verdict


def test_lower_is_better_for_losses(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path)
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        score = json.loads(path.read_text())
        path.write_text(json.dumps({**score, "primary": "loss", "metrics": {"loss": score["metrics"]["accuracy"]}}))
    assert cell_of(headline_of(study_dir), "untrained").best


@pytest.mark.parametrize(
    ("lower", "metrics"),
    [
        (True, "loss eval_loss nll perplexity word_perplexity byte_perplexity bits_per_byte brier_score"),
        (True, "wer WER cer ter wer_stderr error error_rate mean_squared_error mae mse rmse"),
        (False, "accuracy acc_norm f1 bleu chrf anls exact_match answer_accuracy certainty lossless"),
    ],
)
@pytest.mark.parametrize("written", ["{}", "{} (get-answer)", "error_loss_task/{}", "wer/{} (loss)"])
def test_which_way_is_better_is_in_the_words_of_the_bare_name(lower: bool, metrics: str, written: str) -> None:
    for metric in metrics.split():
        assert direction_of(written.format(metric), {}) == ("lower" if lower else "higher"), metric


def test_which_way_is_better_is_told_by_the_benchmark_first() -> None:
    told = {"acc": True, "f2": False, "mean of tasks": None, "pct_stereotype": False, "amb_bias_score (x)": False}
    assert [direction_of(metric, told) for metric in told] == ["higher", "lower", "neither", "neither", "neither"]
    assert direction_of("crows/likelihood_diff", {}) == "neither" and direction_of("unbiased", {}) == "higher"


@pytest.mark.parametrize(("told", "best"), [(True, "full"), (False, "untrained"), (None, None)])
def test_a_mean_of_tasks_is_better_the_way_its_tasks_are(tmp_path: Path, told: bool | None, best: str | None) -> None:
    study_dir = make_study(tmp_path)
    for path in study_dir.jobs.glob("*/eval/digits.json"):
        score = json.loads(path.read_text())
        mean = {"primary": "mean of tasks", "metrics": {"mean of tasks": score["metrics"]["accuracy"]}}
        path.write_text(json.dumps({**score, **mean, "lm_eval": {"higher_is_better": {"mean of tasks": told}}}))
    facts = collect(study_dir)
    headline = make_headline(facts)
    assert [cell.variant for cell in headline.rows("digits") if cell.best] == ([best] if best else [])
    against = against_baseline(facts, headline)
    assert {change.better for change in against.changes} == (set() if told is None else {told})
    first = {True: "full has the highest", False: "untrained has the lowest", None: "mean of tasks on digits goes from"}
    assert headline_sentence(facts, headline).startswith(first[told])


def test_where_all_are_equal_none_is_best(tmp_path: Path) -> None:
    study_dir = make_study(tmp_path, Recipe(accuracy=dict.fromkeys(("full", "lora_r4", "lora_r16"), -1.0)))
    headline = headline_of(study_dir)
    assert len({cell.summary.mean for cell in headline.cells if cell.primary}) == 1
    assert not any(cell.best for cell in headline.cells)
    page = render_page(collect(study_dir), headline).partition("<main>")[2]
    assert "mathbf" not in to_latex(headline) and ' best"' not in page


def test_the_page_of_a_long_named_baseline_and_failed_jobs(tmp_path: Path) -> None:
    name = "a_baseline_of_" + 46 * "x"
    study_dir = make_study(tmp_path, Recipe(accuracy={name: 0.1, "full": 0.9}, failed=(("full", 1),)))
    facts = collect(study_dir)
    page = render_page(facts, make_headline(facts))
    assert "Δ to the baseline" in page and f"Δ to {name}" not in page
    assert 'class="state state-failed">finished with failures' in page

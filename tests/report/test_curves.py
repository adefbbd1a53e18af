"""Bands, means and thinning of learning curves; the scale of the strip plots."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunestudy.records.layout import StudyDir
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.curves import MOST_POINTS, common_grid, make_views, points_per_line, thin
from tunestudy.report.plots import axis_over, heat
from tunestudy.report.statistics import summarise
from tunestudy.report.strip import MARGIN, WIDTH, _rounded, scale_of


def test_seeds_on_one_grid_by_hand() -> None:
    steps, values = common_grid([[(0, 1.0), (10, 3.0)], [(5, 2.0), (10, 4.0), (20, 9.0)]])
    assert steps.tolist() == [5, 10]
    assert values.tolist() == [[2.0, 3.0], [2.0, 4.0]]


def test_seeds_without_common_steps_show_the_first() -> None:
    steps, values = common_grid([[(0, 1.0), (1, 2.0)], [(5, 2.0)]])
    assert steps.tolist() == [0, 1] and values.shape == (1, 2)


def test_thinning_keeps_the_ends() -> None:
    points = [(float(step), 1.0) for step in range(10_000)]
    thinned = thin(points)
    assert len(thinned) == MOST_POINTS and (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thin(points[:5]) == points[:5]


def test_large_studies_get_fewer_points_and_never_too_few() -> None:
    assert [points_per_line(jobs) for jobs in (0, 12, 500, 10_000)] == [300, 300, 75, 40]


def test_views_hold_every_seed_and_a_band_around_the_mean(finished: StudyDir) -> None:
    views = {view.key: view for view in make_views(collect(finished))}
    assert list(views) == ["last", "stage:base", "stage:adapt"]
    line = next(line for line in views["last"].lines["eval_loss"] if line.label == "full")
    assert sorted(line.seeds) == [1, 2, 3]
    assert np.all(np.array(line.low) <= line.mean) and np.all(np.array(line.mean) <= line.high)
    shared = views["stage:base"].lines["train_loss"]
    assert [line.colour for line in shared] == [-1] and "untrained" in shared[0].label


def test_mean_and_band_are_those_of_the_files(finished: StudyDir) -> None:
    facts = collect(finished)
    logs = [facts.last_job("full", seed).eval_log["eval_loss"] for seed in facts.seeds]
    line = next(line for line in make_views(facts)[0].lines["eval_loss"] if line.label == "full")
    assert line.mean == pytest.approx(np.mean(logs, axis=0).tolist())
    assert line.high == pytest.approx(np.max(logs, axis=0).tolist())


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_scale_holds_its_values(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    scale = _rounded(low, high, natural=False)
    assert scale.low <= low + 1e-6 and scale.high >= high - 1e-6
    assert MARGIN <= scale.x(low) <= scale.x(high) <= WIDTH - MARGIN


@pytest.mark.parametrize(
    "values",
    [(0.938667, 0.938668), (1.00000001e9, 1.00000002e9), (-1e-9, 1e-9), (0.3, 0.1 + 0.2), (1e-9, 1e-9), (0.0, 0.0)],
)
def test_ends_and_ticks_are_told_apart_however_near(finished: StudyDir, values: tuple[float, float]) -> None:
    cell = make_headline(collect(finished)).cells[0]
    scale = scale_of([replace(cell, points=dict(enumerate(values)), summary=summarise(list(values)))], None)
    assert scale is not None and scale.labels[0] != scale.labels[1]
    assert MARGIN <= scale.x(values[0]) <= scale.x(values[1]) <= WIDTH - MARGIN
    assert values != (1e-9, 1e-9) or scale.high < 1e-8, "a scale of its own size"
    labels = [label for _, label in axis_over(values, 0.0, 100.0).ticks]
    assert len(set(labels)) == len(labels) > 1


def test_names_of_rows_stay_inside_of_the_picture() -> None:
    name = "language_model.layers.0.self_attn"
    made = heat("by block", [name, "mlp"], [1.0, 2.0], np.zeros((2, 2)))
    assert [(label, full) for _, label, full in made.row_labels] == [("language_m…", name), ("mlp", "mlp")]

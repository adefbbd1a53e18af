"""Sparsity in the report: final shares, effective parameters, the Pareto front, what is pruned where and when."""

import csv
import io
import re

import numpy as np
import pytest
from studies import GATES, MODULES, Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.compare import make_headline
from tunestudy.report.plots import heat, scatter
from tunestudy.report.sparsity import efficiencies, final_sparsity, pictures, prunings

GATED = ["sora_lambda0.1", "sora_lambda0.3", "sora_lambda0.5", "sdora_lambda0.3"]


def test_efficiency_is_what_the_files_say(sparse: StudyDir) -> None:
    facts = collect(sparse)
    rows = {row.variant: row for row in efficiencies(facts, make_headline(facts))}
    assert list(rows) == ["lora", "dora", *GATED]
    assert [name for name, row in rows.items() if row.gated] == GATED
    for name, row in rows.items():
        trainings = [job.training for job in facts.last_jobs(name) if job.training]
        assert row.effective == pytest.approx(np.mean([t.effective_params for t in trainings]))
        assert row.sparsity.n == (5 if row.gated else 0)
        score = row.cells["digits"].summary.mean
        assert row.per_million("digits") == pytest.approx(score / row.effective * 1e6)
        assert all(t.gates == (GATES if row.gated else None) for t in trainings)
    assert rows["sora_lambda0.3"].target == 0.5
    assert rows["sora_lambda0.3"].sparsity.mean == pytest.approx(0.5, abs=0.01)
    assert rows["lora"].sparsity.mean is None


def test_the_front_holds_exactly_the_unbeaten(sparse: StudyDir) -> None:
    facts = collect(sparse)
    rows = efficiencies(facts, make_headline(facts))
    known = {row.variant: (row.effective, row.cells["digits"].summary.mean) for row in rows}
    for row in rows:
        size, score = known[row.variant]
        beaten = any(
            other != row.variant and s <= size and a >= score and (s, a) != (size, score)
            for other, (s, a) in known.items()
        )
        assert ("digits" in row.on_front) is not beaten
    assert any(row.on_front for row in rows)
    assert not all(row.on_front for row in rows)


def test_where_and_when(sparse: StudyDir) -> None:
    found = {pruning.variant: pruning for pruning in prunings(collect(sparse))}
    assert list(found) == GATED
    one = found["sora_lambda0.5"]
    assert one.seeds == 5
    assert {pruned.module for pruned in one.order} <= set(MODULES)
    assert len(one.order) + one.untouched == len(MODULES)
    assert [pruned.half_by for pruned in one.order] == sorted(pruned.half_by for pruned in one.order)
    final = {pruned.module: pruned.final for pruned in one.order}
    assert np.mean([final[name] for name in MODULES if ".5." in name]) > np.mean(
        [final[name] for name in MODULES if ".0." in name]
    ), "the fixture prunes late layers more"
    by_layer, by_kind = one.heats
    assert [label for _, label, _ in by_layer.row_labels] == list("012345")
    assert [label for _, label, _ in by_kind.row_labels] == ["q_proj", "v_proj", "up_proj", "down_proj"]
    assert "at step 200: 0 " in by_layer.text


def test_a_heat_map_has_every_cell_once_in_its_shade() -> None:
    values = np.array([[0.0, 0.0, 0.5, 1.0], [0.2, 0.2, 0.2, 0.2], [0.04, 0.0, 0.0, 0.96]])
    made = heat("x", ["0", "1", "2"], [1, 2, 3, 4], values)
    cells = {shade: re.findall(r"M([\d.]+) ([\d.]+)h([\d.]+)v", path) for shade, path in made.shades}
    widths = {shade: [float(width) for _, _, width in found] for shade, found in cells.items()}
    column = (420 - 74 - 14) / 4
    assert widths.keys() == {2, 5, 10}
    assert widths[2] == [pytest.approx(4 * column, abs=0.1)]
    assert len(widths[10]) == 2
    assert made.row_labels[0][1] == "0"


@pytest.mark.parametrize(("low", "high", "logarithmic"), [(1e4, 3e4, False), (1e4, 9e5, True), (5e3, 3e9, True)])
def test_axes_hold_their_points_and_name_round_values(low: float, high: float, logarithmic: bool) -> None:
    points = [("a", "seed 1", low, 0.5), ("b", "seed 1", high, 0.9)]
    plot = scatter(points, points, titles=("x", "y"), front=["a", "b"], shares=False)
    assert plot is not None
    assert plot.x.logarithmic is logarithmic
    assert all(plot.x.start <= dot.x <= plot.x.end and plot.y.end <= dot.y <= plot.y.start for dot in plot.dots)
    assert 2 <= len(plot.x.ticks) <= 8
    assert 2 <= len(plot.y.ticks) <= 8
    assert len(plot.front.split()) == 2
    assert scatter([], [], titles=("x", "y"), front=[], shares=True) is None


def test_one_point_makes_a_picture() -> None:
    points = [("a", "seed 1", 0.5, 1.0)]
    plot = scatter(points, points, titles=("x", "y"), front=["a"], shares=True)
    assert plot is not None
    assert plot.front == ""


def test_pictures_have_every_seed(sparse: StudyDir) -> None:
    facts = collect(sparse)
    (picture,) = pictures(facts, efficiencies(facts, make_headline(facts)))
    assert picture.by_sparsity is not None
    assert picture.by_parameters is not None
    assert len(picture.by_sparsity.dots) == len(picture.by_parameters.dots) == 6 * 5
    assert len(picture.by_parameters.means) == 6


def test_the_page_and_the_documents(sparse: StudyDir) -> None:
    page = (sparse.report / "index.html").read_text()
    assert page.count('class="scatter"') == 2
    assert page.count('<svg class="heat') == 2 * len(GATED)
    assert '"key":"overall"' in page
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO((sparse.report / "results.csv").read_text()))}
    assert float(rows["sora_lambda0.5"]["effective_params"]) < float(rows["lora"]["effective_params"])
    assert "effective parameters |" in (sparse.report / "results.md").read_text()
    tex = (sparse.report / "results.tex").read_text()
    assert r"Variant & digits (accuracy) & Effective parameters \\" in tex
    assert r"\begin{tabular}{lrr}" in tex
    document = sparse.experiment_md.read_text()
    assert "### Sparsity" in document
    assert "sora\\_lambda0.5 prunes first: `layers." in document
    assert "Best on digits for their effective parameters, fewest first: sora\\_lambda0.5" in document


def test_without_gates_nothing_of_it(finished: StudyDir) -> None:
    page = (finished.report / "index.html").read_text()
    assert 'id="sparsity"' not in page
    assert '"key":"overall"' not in page
    assert "### Sparsity" not in finished.experiment_md.read_text()
    assert "effective parameters |" not in (finished.report / "results.md").read_text()
    assert "effective_params" in (finished.report / "results.csv").read_text()


def test_a_study_that_is_running_or_broken(tmp_path) -> None:
    recipe = Recipe(
        accuracy={"lora": 0.9, "sora_a": 0.9, "sora_b": 0.9},
        gated={"sora_a": 0.5, "sora_b": 0.5},
        flat=True,
        running=(("sora_a", 1),),
        pending=(("sora_a", 2), ("sora_a", 3), ("sora_b", 1)),
    )
    study_dir = make_study(tmp_path, recipe)
    facts = collect(study_dir)
    torn = study_dir.job(facts.last_jobs("sora_b")[1].id).sparsity_log
    torn.write_text(torn.read_text()[:-40])
    study_dir.job(facts.last_jobs("sora_b")[2].id).sparsity_log.write_text("epoch,step,overall\n")
    build_report(study_dir)
    facts = collect(study_dir)
    rows = {row.variant: row for row in efficiencies(facts, make_headline(facts))}
    assert rows["sora_a"].sparsity.n == 0
    found = {pruning.variant: pruning for pruning in prunings(facts)}
    assert found["sora_a"].steps[-1] == 90
    assert found["sora_b"].seeds == 1, "a log without rows says nothing"
    assert found["sora_b"].steps[-1] == 190, "a row that is being written is left out"
    assert final_sparsity(facts.last_jobs("sora_a")[0]) is None

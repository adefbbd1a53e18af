"""Mixtures of experts in the report: who is used where, entropy and balance over steps, energy held, collapse."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merging import BLOCKS, KINDS, MERGING, ONE_SEED, make_merging

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.collect import collect
from tunestudy.report.collect_mixture import read_gate_log
from tunestudy.report.compare import make_headline
from tunestudy.report.facts import OVERALL, GateLog, StudyFacts
from tunestudy.report.findings import warnings_of
from tunestudy.report.mixtures import ALL_BUT_HARD, TAKES_ALL, Mixture, _entropy_heat, block_labels, collapses, mixtures
from tunestudy.report.observations import observations
from tunestudy.report.plots import LEVELS
from tunestudy.report.plots_mixture import grid, lines
from tunestudy.report.reader import Reader

EXPERTS = ["merged", "en", "ko"]


def _of(facts: StudyFacts, variant: str) -> Mixture:
    return next(one for one in mixtures(facts) if variant in one.variants)


def _rows(study_dir: StudyDir, facts: StudyFacts, variant: str) -> list[list[dict[str, str]]]:
    """By hand: the csv module's rows of every seed."""
    jobs = [job for job in facts.jobs if job.stage == "mixed" and variant in job.variants]
    return [list(csv.DictReader((study_dir.job(job.id).root / "mole_log.csv").open())) for job in jobs]


def test_usage_and_entropy_are_what_the_files_say(merging: StudyDir) -> None:
    facts = collect(merging)
    one, logs = _of(facts, "mixture"), _rows(merging, facts, "mixture")
    assert (one.seeds, one.logged, one.last_step) == (MERGING.seeds, 3, 200)
    assert [gate.block for gate in one.gates] == BLOCKS
    for gate in [*one.gates, one.overall]:
        assert gate is not None
        last = [[row for row in rows if row["module"] == gate.block][-1] for rows in logs]
        for name in EXPERTS:
            said = [float(row[name]) for row in last]
            assert gate.usage[name].mean == pytest.approx(np.mean(said))
            assert (gate.usage[name].low, gate.usage[name].high) == (min(said), max(said))
        assert sum(use.mean for use in gate.usage.values()) == pytest.approx(1)
        assert gate.entropy.mean == pytest.approx(np.mean([float(row["entropy"]) for row in last]))
        assert gate.balance.mean == pytest.approx(np.mean([float(row["balance"]) for row in last]))


def test_the_table_over_steps_is_the_mean_of_seeds(merging: StudyDir) -> None:
    facts = collect(merging)
    one, logs = _of(facts, "mixture"), _rows(merging, facts, "mixture")
    assert (one.steps[0].step, one.steps[-1].step) == (10, 200)
    for told in one.steps:
        rows = [row for log in logs for row in log if row["module"] == OVERALL and float(row["step"]) == told.step]
        assert told.usage["ko"] == pytest.approx(np.mean([float(row["ko"]) for row in rows]))
        assert told.entropy == pytest.approx(np.mean([float(row["entropy"]) for row in rows]))


def test_every_cell_of_a_grid_says_its_number(merging: StudyDir) -> None:
    one = _of(collect(merging), "mixture")
    assert one.usage is not None
    assert len(one.usage.cells) == len(EXPERTS) * len(BLOCKS)
    titles = [cell.title for cell in one.usage.cells]
    share = one.gates[5].usage["ko"].mean
    assert f"ko, block 5: {share * 100:.1f} %" in titles
    assert [label for _, label in one.usage.column_labels] == list("012345")
    late = [cell for cell in one.usage.cells if cell.title.startswith("ko, block 5")]
    early = [cell for cell in one.usage.cells if cell.title.startswith("ko, block 0")]
    assert late[0].shade > early[0].shade, "the fixture's late blocks prefer ko"
    page = (merging.report / "index.html").read_text()
    assert f"<title>ko, block 5: {share * 100:.1f} %</title>" in page


def test_energy_by_module_and_threshold(merging: StudyDir) -> None:
    facts = collect(merging)
    one = _of(facts, "mixture")
    assert [expert.name for expert in one.experts] == EXPERTS
    nothing, en, _ = one.experts
    assert (nothing.origin, nothing.picture, nothing.overall.mean) == ("adds nothing", None, None)
    jobs = [job for job in facts.jobs if job.stage == "mixed" and "mixture" in job.variants]
    said = [json.loads((merging.job(job.id).root / "experts.json").read_text())["experts"]["en"] for job in jobs]
    assert (en.origin, en.kind, en.rank) == ("stage english", "difference", 16)
    assert en.overall.mean == pytest.approx(np.mean([of["overall"] for of in said]))
    assert en.outside.mean == pytest.approx(0.081)
    lowest = {module: min(of["energy"][module] for of in said) for module in said[0]["energy"]}
    assert en.by_module == lowest
    assert en.below == sum(share < 0.4 for share in lowest.values()) > 0
    assert en.lowest[0] == min(lowest.items(), key=lambda pair: pair[1])
    assert en.picture is not None
    assert len(en.picture.cells) == len(KINDS) * len(BLOCKS)
    flagged = {cell.title for cell in en.picture.cells if cell.flagged}
    assert len(flagged) == en.below
    assert all(title.startswith("up_proj, layer") for title in flagged), "the fixture's weak kind of module"
    assert one.min_energy == 0.4


def test_collapsed_gates_are_named_and_others_are_not(merging: StudyDir) -> None:
    facts = collect(merging)
    assert _of(facts, "mixture").collapsed == []
    collapsed = _of(facts, "collapsed")
    assert collapsed.overall is not None
    assert collapsed.overall.usage["en"].mean > TAKES_ALL
    assert collapsed.overall.entropy.mean < ALL_BUT_HARD
    assert [line.split()[:2] for line in collapsed.collapsed] == [["expert", "en"], ["the", "gates'"]]
    (told,) = collapses(facts)
    headline = make_headline(facts)
    assert told in warnings_of(facts, headline)
    assert any("mixed of collapsed has collapsed" in line for line in observations(facts, headline))
    assert "Collapsed: expert en has" in merging.experiment_md.read_text()


def test_single_blocks_that_collapse_are_named(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    path = next(path for path in sorted(study_dir.jobs.glob("mixed-*/mole_log.csv")) if _variant(path) == "mixture")
    rows = list(csv.DictReader(path.open()))
    hard = {"model.layers.2", "model.layers.4"}
    _write(path, [{**row, "entropy": "0.04"} if row["module"] in hard else row for row in rows])
    assert _of(collect(study_dir), "mixture").collapsed == ["the entropy of gates is below 0.1 in 2 blocks (2, 4)"]


def test_one_expert_at_a_time_is_no_collapse(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    for path in study_dir.root.rglob("*.*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace('"top_k": 2', '"top_k": 1').replace("top_k: 2", "top_k: 1"))
    (line,) = _of(collect(study_dir), "collapsed").collapsed
    assert line.startswith("expert en has"), "the entropy of one share is always 0"


def _variant(log: Path) -> str:
    return str(json.loads((log.parent / "job.json").read_text())["variants"][0])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_settings_in_words(merging: StudyDir) -> None:
    facts = collect(merging)
    soft, hard = dict(_of(facts, "mixture").settings), dict(_of(facts, "collapsed").settings)
    assert (soft["experts at once"], hard["experts at once"]) == ("all", "2")
    assert (soft["balance loss"], hard["balance loss"]) == ("Switch Transformer's × 0.01", "none")
    assert soft["gate"].startswith("token: ")
    assert hard["gate"].startswith("sequence: ")


def test_the_page_and_the_document(merging: StudyDir) -> None:
    page = (merging.report / "index.html").read_text()
    section = page[page.index('<section id="mixtures"') :]
    section = section[: section.index("</section>")]
    assert section.count('class="lines"') == 2 * 3
    assert section.count("grid-of-cells") == 2 * (1 + 2)
    assert len(re.findall(r'<tr><th scope="row"><code>model\.layers\.\d</code>', section)) == 2 * len(BLOCKS)
    document = merging.experiment_md.read_text()
    assert "### Mixtures of experts" in document
    assert "| merged | adds nothing | 0 |" in document
    assert "`jobs/<job>/mole_log.csv`" in document


def test_seeds_that_have_come_to_other_steps(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path)
    facts = collect(study_dir)
    jobs = [job for job in facts.jobs if job.stage == "mixed" and "mixture" in job.variants]
    torn, short, empty = (study_dir.job(job.id).root / "mole_log.csv" for job in jobs)
    torn.write_text(torn.read_text()[:-30])
    _write(short, [row for row in csv.DictReader(short.open()) if int(row["step"]) <= 90])
    empty.write_text(empty.read_text().partition("\n")[0] + "\n")
    one = _of(collect(study_dir), "mixture")
    assert one.logged == 2
    assert one.last_step == 200
    assert one.steps[-1].step == 90, "means end where the first seed ends"
    assert one.overall is not None
    assert one.overall.entropy.seeds == 2
    build_report(study_dir)
    assert "2 logged" in (study_dir.report / "index.html").read_text()


def test_a_log_as_it_may_lie_there(tmp_path: Path) -> None:
    path = tmp_path / "mole_log.csv"
    reader = Reader(tmp_path)
    assert read_gate_log(path, reader) == {}
    head = "epoch,step,module,entropy,balance,en,ko\n"
    path.write_text(
        f"{head}0.1,20,a,0.5,1.0,0.4,0.6\n0.1,10,a,nan,,inf,x\n0.1,20,a,0.6,1.0,0.3,0.7\n,,a,1,1,1,1\n0.1,30,a"
    )
    log = read_gate_log(path, reader)["a"]
    assert log.steps == [10, 20]
    assert log.entropy[1] == 0.6, "of a step that stands twice the last one counts"
    assert all(math.isnan(values[0]) for values in (log.entropy, log.balance, log.usage["en"], log.usage["ko"]))
    assert log.usage["ko"][1] == 0.7
    assert reader.unreadable == []
    path.write_text("step,en\n1,2\n")
    assert read_gate_log(path, reader) == {}
    assert len(reader.unreadable) == 1


BROKEN_LOGS = [b"\xff\xfe\x00", b"", b"step,en\n1,2\n", b"epoch,step,module,entropy,balance,en\n1,2,a,b,c,d\n"]
BROKEN_EXPERTS = [b"{torn", b'{"experts": [1], "min_energy": "x"}', b'{"experts": {"en": {"energy": {"m": "?"}}}}', b""]


@pytest.mark.parametrize(("log", "experts"), list(zip(BROKEN_LOGS, BROKEN_EXPERTS, strict=True)))
def test_damaged_files_break_nothing(tmp_path: Path, log: bytes, experts: bytes) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    for path in study_dir.jobs.glob("mixed-*/mole_log.csv"):
        path.write_bytes(log)
        (path.parent / "experts.json").write_bytes(experts)
    build_report(study_dir)
    facts = collect(study_dir)
    assert facts.count("done") == len(facts.jobs)
    for one in mixtures(facts):
        assert [expert.name for expert in one.experts] == EXPERTS
        assert one.collapsed == []


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    study_dir = make_merging(tmp_path, ONE_SEED)
    evil = "</script><img src=x>"
    for path in study_dir.jobs.glob("mixed-*/mole_log.csv"):
        path.write_text(path.read_text().replace("model.layers.3", f"model.{evil}"))
    build_report(study_dir)
    assert evil not in (study_dir.report / "index.html").read_text()


def test_labels_of_blocks() -> None:
    assert block_labels(["model.layers.0", "model.layers.11"]) == ["0", "11"]
    assert block_labels(["vision.layers.0", "text.layers.0"]) == ["vision.layers.0", "text.layers.0"]


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (8, 64)])
def test_a_grid_covers_its_place_once(rows: int, columns: int) -> None:
    values = np.random.default_rng(0).random((rows, columns))
    values[0, 1] = np.nan
    made = grid("x", [f"e{n}" for n in range(rows)], [str(n) for n in range(columns)], values, what="block", least=0.2)
    assert len(made.cells) == rows * columns - 1
    assert len({(cell.x, cell.y) for cell in made.cells}) == len(made.cells)
    by_title = {cell.title: cell for cell in made.cells}
    for row in range(rows):
        for column in range(columns):
            if not np.isnan(values[row, column]):
                cell = by_title[f"e{row}, block {column}: {values[row, column] * 100:.1f} %"]
                assert cell.shade == round(values[row, column] * LEVELS)
                assert cell.flagged is bool(values[row, column] < 0.2)
    places = [place for place, _ in made.column_labels]
    assert min(np.diff(places)) > 20, "labels do not touch"


def test_lines_stay_in_their_frame() -> None:
    seeds = {"en": [([1.0, 5.0, 900.0], [0.1, float("nan"), 0.9]), ([1.0], [0.2])], "ko": [([1.0], [0.3])]}
    means = {"en": ([1.0, 900.0], [0.15, 0.9]), "ko": ([1.0], [0.3]), "none": ([], [])}
    made = lines("x", means, seeds, shares=True)
    assert made is not None
    assert [trace.label for trace in made.traces] == ["en", "ko"]
    assert [len(trace.seeds) for trace in made.traces] == [2, 0]
    assert not made.x.logarithmic
    for trace in made.traces:
        for points in (trace.mean, *trace.seeds):
            for x, y in (map(float, point.split(",")) for point in points.split()):
                assert made.x.start <= x <= made.x.end
                assert made.y.end <= y <= made.y.start
    assert lines("x", {}, {}, shares=True) is None


def test_a_long_log_is_thinned_but_keeps_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "mole_log.csv"
    steps = range(10, 10_010, 10)
    rows = [f"0.1,{step},{module},{step / 20000},1,0.5,0.5" for step in steps for module in ("a", '"b,c"')]
    path.write_text("\n".join(["epoch,step,module,entropy,balance,en,ko", *rows, ""]))
    logs = read_gate_log(path, Reader(tmp_path))
    assert list(logs) == ["a", "b,c"], "names that a CSV file has to quote"
    for log in logs.values():
        assert (log.steps[0], log.steps[-1]) == (10, 10_000)
        assert 100 <= len(log.steps) <= 120
        assert log.entropy == [step / 20000 for step in log.steps]


def test_blocks_without_a_step_in_common_still_make_a_picture() -> None:
    nan = float("nan")
    early = GateLog(steps=[1.0, 2.0, 3.0, 4.0], entropy=[0.5, 0.6, nan, nan], balance=[], usage={})
    late = GateLog(steps=[1.0, 2.0, 3.0, 4.0], entropy=[nan, nan, 0.5, 0.6], balance=[], usage={})
    made = _entropy_heat(["layers.0", "layers.1"], [{"layers.0": early, "layers.1": late}])
    assert made is not None and [full for _, _, full in made.row_labels] == ["0"]

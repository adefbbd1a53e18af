"""Synthetic data sets in a study file: planned without drawing, and told apart by all that changes their pixels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config import fonts as listed

Folder = Any
Edit = Callable[..., str]
ROTATED = "{type: digits, rotate: 90, held_out: 0.2}"


@pytest.fixture
def font_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The only folder where fonts are looked for. A plan reads their bytes and draws nothing."""
    folder = tmp_path / "fonts"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "DejaVuSans.ttf").write_bytes(b"latin")
    (folder / "NanumGothic.ttf").write_bytes(b"hangul")
    monkeypatch.setattr(listed, "FOLDERS", (str(folder),))
    listed._installed.cache_clear()
    yield folder
    listed._installed.cache_clear()


def jobs(folder: Folder, edited: Edit, synth: str) -> dict[str, str]:
    """Stage → fingerprint of the plain variant, when `rotated` is this synthetic set."""
    listed._installed.cache_clear()
    plan = folder.plan(edited((ROTATED, synth)))
    return {one.job.stage: one.job.fingerprint for one in plan.jobs if one.job.seed == 1 and "full" in one.job.variants}


def test_what_counts_and_what_does_not(folder: Folder, edited: Edit, font_folder: Path) -> None:
    chart = "{type: synth, kind: chart, count: 50, held_out: 0.2}"
    before = jobs(folder, edited, chart)
    for change in ("seed: 1", "language: ko", "image_size: 224", "tasks: [argmax]", "min_items: 4"):
        after = jobs(folder, edited, chart.replace("held_out", f"{change}, held_out"))
        assert after["base"] == before["base"] and after["adapt"] != before["adapt"], change
    assert jobs(folder, edited, chart.replace("held_out", "num_workers: 4, held_out")) == before
    (font_folder / "NanumGothic.ttf").write_bytes(b"other")
    assert jobs(folder, edited, chart) == before, "an English set does not depend on the Korean font"
    (font_folder / "deep" / "DejaVuSans.ttf").write_bytes(b"another")
    assert jobs(folder, edited, chart)["adapt"] != before["adapt"]


def test_shapes_do_not_depend_on_fonts(folder: Folder, edited: Edit, font_folder: Path) -> None:
    shapes = "{type: synth, kind: shapes, count: 50, language: both, held_out: 0.2}"
    before = jobs(folder, edited, shapes)
    (font_folder / "NanumGothic.ttf").write_bytes(b"other")
    (font_folder / "deep" / "DejaVuSans.ttf").write_bytes(b"another")
    assert jobs(folder, edited, shapes) == before


def test_a_named_font_counts_by_its_bytes(folder: Folder, edited: Edit) -> None:
    chart = "{type: synth, kind: chart, count: 50, font: own.ttf, held_out: 0.2}"
    (folder.root / "own.ttf").write_bytes(b"one")
    before = jobs(folder, edited, chart)
    (folder.root / "moved.ttf").write_bytes(b"one")
    assert jobs(folder, edited, chart.replace("own.ttf", "moved.ttf")) == before
    (folder.root / "own.ttf").write_bytes(b"two bytes more")
    assert jobs(folder, edited, chart) != before


def test_a_shape_counts_and_plain_sets_are_what_they_were(folder: Folder, edited: Edit) -> None:
    shapes = "{type: synth, kind: shapes, count: 50, held_out: 0.2}"
    before = jobs(folder, edited, shapes)
    assert jobs(folder, edited, shapes.replace("held_out", "shape: plain, held_out")) == before
    blink = jobs(folder, edited, shapes.replace("held_out", "shape: blink, held_out"))
    assert blink["adapt"] != before["adapt"]
    assert jobs(folder, edited, shapes.replace("held_out", "shape: blink, answer_form: choice, held_out")) == blink


@pytest.mark.usefixtures("font_folder")
def test_steps_are_known_before_anything_is_drawn(folder: Folder, edited: Edit) -> None:
    chart = "{type: synth, kind: chart, count: 640, held_out: 0}"
    text = edited((ROTATED, chart), ("adapt: {data: rotated, max_steps: 200}", "adapt: {data: rotated}"))
    plan = folder.plan(text.replace("dataset: rotated@held_out", "dataset: upright@held_out"))
    adapt = next(one for one in plan.jobs if one.job.stage == "adapt")
    assert adapt.estimate.steps.value == 640 // 32


@pytest.mark.parametrize(
    ("synth", "told"),
    [
        ("{type: synth, kind: chart}", "study.yaml:9: datasets.rotated.count: `count` is missing"),
        ("{type: synth, kind: charts, count: 5}", "did you mean `chart`"),
        ("{type: synth, kind: chart, count: 5, language: kr}", "one of en, ko, both"),
        ("{type: synth, kind: chart, count: 5, tasks: [colour]}", "tasks: chart has no colour"),
        ("{type: synth, kind: chart, count: 5, font: none.ttf}", "datasets.rotated.font: there is no file `none.ttf`"),
        ("{type: synth, kind: chart, count: 5, colour: red}", "colour"),
        ("{type: synth, kind: chart, count: 5, shape: blink}", "kind: blink is made of shapes, not chart"),
        ("{type: synth, kind: shapes, count: 5, shape: blinks}", "did you mean `blink`"),
        ("{type: synth, kind: table, count: 5, shape: wtq, tasks: [statement]}", "wtq has no place for statement"),
        ("{type: synth, kind: table, count: 5, shape: kdtc, num_choices: 5}", "num_choices: kdtc needs 4"),
    ],
)
def test_mistakes_have_a_place(folder: Folder, edited: Edit, synth: str, told: str) -> None:
    assert told in folder.error(edited((ROTATED, synth)))

"""Processes, the data source, and identities."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tunestudy.config.data import Dataset, SynthDataset
from tunestudy.data.formats import RecordReader
from tunestudy.data.images import IMAGE_MARK
from tunestudy.data.sources import Folders, source_of, synth
from tunestudy.data.synth.generate import generate

HERE = Folders(Path(), Path("cache"))


def test_several_processes_draw_the_same_bytes_in_the_same_order() -> None:
    one = SynthDataset(kind="shapes", count=70, image_size=28)
    alone = [(encoded.sample.id, encoded.png) for encoded in generate(one, HERE.base)]
    together = [(e.sample.id, e.png) for e in generate(one.model_copy(update={"num_workers": 2}), HERE.base)]
    assert alone == together and len(alone) == 70


def test_a_longer_set_begins_with_a_shorter_one() -> None:
    short, long = (list(synth.read(SynthDataset(kind="chart", count=n, image_size=56), HERE)) for n in (3, 6))
    assert [raw.columns for raw in short] == [raw.columns for raw in long][:3]


def test_records_are_prompts_with_an_image() -> None:
    dataset = SynthDataset(kind="shapes", count=8, image_size=28, answer_form="choice")
    for raw in synth.read(dataset, HERE):
        with Image.open(io.BytesIO(raw.columns["image"]["bytes"])) as image:
            assert image.size == (28, 28)
        assert raw.columns["completion"] in raw.columns["choices"]
        reader = RecordReader("shapes", dataset, raw.columns, HERE)
        example = reader.example(raw.columns)
        assert reader.format_name == "prompt_completion" and example.choices == tuple("ABCD")
        assert (example.prompt, example.completion) == (IMAGE_MARK + raw.columns["prompt"], raw.columns["completion"])


def test_open_questions_have_no_choices() -> None:
    [raw] = synth.read(SynthDataset(kind="chart", count=1, tasks=("value",), image_size=56), HERE)
    assert "choices" not in raw.columns


def test_the_tag_finds_the_module() -> None:
    assert source_of(SynthDataset(kind="shapes", count=1)) is synth


CHANGES: dict[str, Any] = {
    "kind": "table",
    "count": 6,
    "seed": 1,
    "korean_share": 0.25,
    "image_size": 224,
    "tasks": ("value",),
    "answer_form": "choice",
    "num_choices": 3,
    "min_items": 3,
    "max_items": 4,
    "charts": ("bar",),
    "print_values": False,
    "language": "ko",
    "shape": "chartqa",
}


@pytest.mark.parametrize("key", CHANGES)
@pytest.mark.usefixtures("hangul")
def test_identity_changes_with_every_option(key: str) -> None:
    dataset = SynthDataset(kind="chart", count=5)
    assert synth.identity(dataset, HERE) != synth.identity(dataset.model_copy(update={key: CHANGES[key]}), HERE)


def test_every_option_is_tried_above() -> None:
    own = set(SynthDataset.model_fields) - set(Dataset.model_fields) - {"type", "num_workers", "font"}
    assert own | {"language"} == set(CHANGES)


def test_identity_knows_the_font_and_pillow_but_not_the_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset = SynthDataset(kind="chart", count=5)
    before = synth.identity(dataset, HERE)
    assert synth.identity(dataset.model_copy(update={"num_workers": 7}), HERE) == before
    monkeypatch.setattr(synth.PIL, "__version__", "0")
    assert synth.identity(dataset, HERE) != before
    monkeypatch.undo()
    font = synth.find_fonts(dataset, HERE.base).en
    if font is None:
        pytest.skip("no TrueType font on this machine")
    (tmp_path / "other.ttf").write_bytes(font.read_bytes() + b"\0")
    changed = dataset.model_copy(update={"font": "other.ttf"})
    assert synth.identity(changed, Folders(tmp_path, tmp_path)) != before
    (tmp_path / "other.ttf").write_bytes(font.read_bytes())
    assert synth.identity(changed, Folders(tmp_path, tmp_path)) == before, "the bytes count, not the name"

"""Sets on disk, in our columns and in those of benchmarks, read back by others' readers."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.config.synth import OUTPUT_SHAPES, SynthSettings
from tunestudy.data.sources import Folders, file
from tunestudy.data.synth import write
from tunestudy.data.synth.columns import MAKERS, TYPES, image_columns
from tunestudy.data.synth.sample import sample
from tunestudy.data.synth.write import write_set
from tunestudy.launch.requests.synth import settings_for

SHAPES = sorted(OUTPUT_SHAPES)


def written(out: Path, shape: str, file_format: str = "jsonl", count: int = 6) -> tuple[Path, list[SynthSettings]]:
    given = {"count": count, "image_size": 112}
    kinds = [settings_for(shape, kind, given) for kind in OUTPUT_SHAPES[shape].kinds]
    return write_set(out, kinds, count=count, shape=shape, file_format=file_format, num_workers=1), kinds


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_shape_has_columns() -> None:
    assert set(OUTPUT_SHAPES) == set(TYPES) == set(MAKERS)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_have_the_columns_and_images_lie_beside(tmp_path: Path, shape: str) -> None:
    path, kinds = written(tmp_path / "set", shape)
    rows = rows_of(path)
    assert len(rows) == 6
    for number, row in enumerate(rows):
        assert list(row) == list(TYPES[shape])
        drawn = sample(kinds[number % len(kinds)], number // len(kinds))
        shown = image_columns(shape, number)
        for name in shown:
            with Image.open(path.parent / row[name]) as image:
                assert image.tobytes() == drawn.image.tobytes()
        assert {name for name, kind in TYPES[shape].items() if kind == "image" and row[name]} == set(shown)
    assert len({row[name] for number, row in enumerate(rows) for name in image_columns(shape, number)[:1]}) >= 5


@pytest.mark.parametrize("shape", SHAPES)
def test_parquet_holds_the_same_rows(tmp_path: Path, shape: str) -> None:
    lines, _ = written(tmp_path / "lines", shape)
    whole, _ = written(tmp_path / "whole", shape, "parquet")
    assert [entry.name for entry in whole.parent.iterdir()] == ["data.parquet"]
    records = [raw.columns for raw in file.read(FileDataset(path=str(whole)), Folders(Path(), Path()))]
    for number, (row, record) in enumerate(zip(rows_of(lines), records, strict=True)):
        for name in image_columns(shape, number):
            assert record[name]["bytes"] == (lines.parent / row[name]).read_bytes()
            record[name] = row[name]
        assert record == row


def test_datasets_reads_images_as_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    path, _ = written(tmp_path / "set", "wtq", "parquet")
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded[0]["image"].size == (112, 112)
    assert loaded[0]["table"]["rows"][0][0] and loaded[0]["answers"]


def test_benchmark_rows_say_what_the_samples_say(tmp_path: Path) -> None:
    for number, row in enumerate(rows_of(written(tmp_path / "kdtc", "kdtc", count=12)[0])):
        options = [row[f"choice_{letter}"] for letter in "abcd"]
        assert row["index"] == number and row["answer"] in "ABCD" and len(set(options)) == 4
    assert {row["category"] for row in rows_of(tmp_path / "kdtc" / "data.jsonl")} == {"chart", "document", "table"}
    path, [settings] = written(tmp_path / "tabfact", "tabfact", count=12)
    labels = []
    for number, row in enumerate(rows_of(path)):
        one = sample(settings, number)
        labels.append(row["label"])
        assert row["label"] == (one.answer == "true") and row["statement"] == one.question
        assert [line.split("#") for line in row["table_text"].split("\n")] == [one.truth["header"], *one.truth["rows"]]
    assert set(labels) == {0, 1}
    for row in rows_of(written(tmp_path / "chartqa", "chartqa")[0]):
        assert len(row["label"]) == 1 and row["human_or_machine"] == 1
    for row in rows_of(written(tmp_path / "docvqa", "docvqa")[0]):
        assert len(row["answers"]) == 1 and "\n" not in row["answers"][0]


def test_plain_rows_carry_their_truth(tmp_path: Path) -> None:
    path, kinds = written(tmp_path / "set", "plain", count=8)
    for number, row in enumerate(rows_of(path)):
        one = sample(kinds[number % 4], number // 4)
        assert json.loads(row["truth"])["task"] == one.truth["task"] == row["category"].partition(".")[2]
        assert (row["prompt"], row["completion"], tuple(row["choices"])) == (one.prompt, one.answer, one.words)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    with pytest.raises(StudyError, match="already and not empty"):
        written(tmp_path / "set", "plain")
    assert [entry.name for entry in (tmp_path / "set").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert written(tmp_path / "set", "plain")[0].is_file()


def test_nothing_is_left_of_a_set_that_was_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return write_columns(*args)

    write_columns = write.columns_of
    monkeypatch.setattr(write, "columns_of", full)
    with pytest.raises(StudyError, match="cannot be written: No space left"):
        written(tmp_path / "set", "plain")
    assert len(calls) == 4 and list(tmp_path.iterdir()) == []

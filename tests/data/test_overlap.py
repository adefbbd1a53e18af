"""Fingerprints of a data set: made once, of the records that there are, on the side of the split where they belong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tunestudy.config.data import FileDataset, SynthDataset
from tunestudy.config.errors import StudyError
from tunestudy.data import overlap
from tunestudy.data.overlap import trained_on
from tunestudy.data.select import is_held_out
from tunestudy.data.sources import Folders
from tunestudy.data.survey import survey
from tunestudy.data.wording import evened, sentence_prints, sentences
from tunestudy.records.layout import StudyDir


@pytest.fixture
def study(tmp_path: Path) -> StudyDir:
    return StudyDir(tmp_path / "results" / "study")


def text_rows(count: int) -> list[dict[str, str]]:
    return [{"id": f"r{i}", "prompt": f"What is {i}? Say it.", "completion": str(i)} for i in range(count)]


def test_fingerprints_are_those_of_the_records(write_jsonl, folders, study):
    write_jsonl("a.jsonl", text_rows(40))
    dataset = FileDataset(path="a.jsonl", held_out=0.3)
    made = trained_on("a", dataset, folders, study)
    records = list(survey("a", dataset, folders).records())
    assert list(made.ids) == [record.id for record in records]
    assert made.content.tolist() == [record.content for record in records]
    assert made.held_out.tolist() == [is_held_out(record.split_id, 0.3) for record in records]
    starts = [0, *made.sentence_ends.tolist()]
    for i in range(40):
        expected = {
            p
            for text in (f"What is {i}? Say it.", str(i))
            for p in sentence_prints(sentences(evened(text), by_line=True))
        }
        assert set(made.sentences[starts[i] : starts[i + 1]].tolist()) == expected


def test_made_once_and_again_when_the_data_change(write_jsonl, folders, study, monkeypatch):
    write_jsonl("a.jsonl", text_rows(4))
    calls = []
    monkeypatch.setattr(overlap, "survey", lambda *args: calls.append(args) or survey(*args))
    first = trained_on("a", FileDataset(path="a.jsonl"), folders, study)
    again = trained_on("a", FileDataset(path="a.jsonl", max_rejected=0.5), folders, study)
    assert len(calls) == 1
    assert again.identity == first.identity
    write_jsonl("a.jsonl", text_rows(5))
    assert len(trained_on("a", FileDataset(path="a.jsonl"), folders, study).ids) == 5
    assert len(calls) == 2


def test_a_damaged_cache_is_made_again(write_jsonl, folders, study):
    write_jsonl("a.jsonl", text_rows(4))
    made = trained_on("a", FileDataset(path="a.jsonl"), folders, study)
    file = study.cache / "overlap" / made.identity / "content"
    file.write_bytes(file.read_bytes()[:-8])
    assert len(trained_on("a", FileDataset(path="a.jsonl"), folders, study).content) == 4


def test_images_once_each_in_the_order_of_records(tmp_path, write_jsonl, folders, study):
    for name, grey in (("x", 10), ("y", 200)):
        Image.new("L", (60, 40), grey).save(tmp_path / f"{name}.png")
    names = [["x"], [], ["y", "x"], ["y"]]
    rows = [{**row, "images": [f"{name}.png" for name in has]} for row, has in zip(text_rows(4), names, strict=True)]
    write_jsonl("a.jsonl", rows)
    made = trained_on("a", FileDataset(path="a.jsonl"), folders, study)
    assert made.image_ends.tolist() == [1, 1, 3, 4]
    assert made.images.tolist() == [0, 1, 0, 1]
    assert made.looks.sizes.tolist() == [[60, 40], [60, 40]]
    assert made.looks.pictures[:, 0].tolist() == [10, 200]


def test_an_image_that_cannot_be_decoded_is_counted(tmp_path, write_jsonl, folders, study):
    (tmp_path / "x.png").write_bytes(b"\x89PNG but no more")
    write_jsonl("a.jsonl", [{**row, "images": ["x.png"]} for row in text_rows(3)])
    made = trained_on("a", FileDataset(path="a.jsonl"), folders, study)
    assert (made.undecodable, len(made.ids), len(made.hashes)) == (1, 3, 1)


def test_a_set_that_is_gone_is_an_error(folders, study):
    with pytest.raises(StudyError, match="does not exist"):
        trained_on("a", FileDataset(path="gone.jsonl"), folders, study)


def test_of_a_huge_set_a_sample_is_taken(write_jsonl, folders, study, monkeypatch):
    monkeypatch.setattr(overlap, "MOST_RECORDS", 50)
    write_jsonl("a.jsonl", text_rows(400))
    made = trained_on("a", FileDataset(path="a.jsonl"), folders, study)
    assert made.records == 400
    assert 25 <= len(made.ids) <= 75


def test_synthetic_data_need_no_file(folders: Folders, study):
    made = trained_on("s", SynthDataset(kind="shapes", count=5, image_size=56), folders, study)
    assert (len(made.ids), len(made.looks), made.undecodable) == (5, 5, 0)
    assert np.unique(made.images).tolist() == list(range(5))

"""The bundled digits, and the hub's client on a data set that lies in a folder."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tunestudy.config.data import DigitsDataset, HubDataset
from tunestudy.config.errors import StudyError
from tunestudy.data.sources import digits, hub, source_of


def as_image(prompt):
    assert prompt.endswith("\n=")
    return np.array([["0123456789abcdefg".index(c) for c in line] for line in prompt[:-2].split("\n")])


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_digits_are_the_scans(folders, rotate):
    records = list(digits.read(DigitsDataset(rotate=rotate), folders))
    real = load_digits()
    assert [raw.columns["completion"] for raw in records] == [str(digit) for digit in real.target]
    for i in (0, 7, 1796):
        assert np.array_equal(as_image(records[i].columns["prompt"]), np.rot90(real.images[i], rotate // 90))
        assert records[i].columns["id"] == str(i)


@pytest.mark.parametrize("rotate", [0, 270])
def test_trimmed_digits_lack_the_blank_columns(folders, rotate):
    records = list(digits.read(DigitsDataset(rotate=rotate, trim=True), folders))
    real = load_digits().images[7][:, 1:7]
    assert np.array_equal(as_image(records[7].columns["prompt"]), np.rot90(real, rotate // 90))


def test_digits_identity_knows_what_is_done_to_them(folders):
    kinds = [DigitsDataset(), DigitsDataset(rotate=90), DigitsDataset(trim=True)]
    assert len({digits.identity(kind, folders) for kind in kinds}) == 3


def test_the_tag_finds_the_module():
    assert source_of(DigitsDataset()) is digits


@pytest.mark.slow
def test_hub_through_the_real_client(tmp_path, folders, write_jsonl, monkeypatch):
    write_jsonl("set/train.jsonl", [{"text": "one"}, {"text": "two"}])
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    dataset = HubDataset(name=str(tmp_path / "set"))
    assert [raw.columns for raw in hub.read(dataset, folders)] == [{"text": "one"}, {"text": "two"}]
    assert hub.identity(dataset, folders) == hub.identity(dataset, folders)
    assert hub.identity(dataset.model_copy(update={"revision": "abc"}), folders).endswith("train abc")


def test_subsets_of_the_hub_one_after_the_other(tmp_path, folders, write_jsonl, monkeypatch):
    parts = {name: write_jsonl(f"set/{name}.jsonl", [{"text": name}]).name for name in ("b", "a-c")}
    configs = "".join(f"- {{config_name: {name}, data_files: {file}}}\n" for name, file in parts.items())
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def read(subset):
        return [raw.columns["text"] for raw in hub.read(HubDataset(name=str(tmp_path / "set"), subset=subset), folders)]

    assert read("b+a-c") == ["b", "a-c"] and read("a-c") == ["a-c"]
    with pytest.raises(StudyError, match=r"(?s)cannot be loaded: .*'b', 'a-c'"):
        read(None)


@pytest.mark.slow
def test_a_hub_id_that_is_not_there(folders):
    with pytest.raises(StudyError, match="nobody/nothing cannot be loaded"):
        list(hub.read(HubDataset(name="nobody/nothing"), folders))

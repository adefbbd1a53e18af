"""`~` in a path of a study file means the same to whoever reads it, and to fingerprints what it leads to."""

from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.data import FileDataset
from tunestudy.config.errors import StudyError
from tunestudy.data.sources.file import data_files

Folder = Any  # the class of conftest.py


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With `train.jsonl` and a folder `model` in it."""
    home = tmp_path / "home"
    (home / "model").mkdir(parents=True)
    (home / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    (home / "model" / "config.json").write_text('{"model_type": "qwen3", "hidden_size": 32}')
    monkeypatch.setenv("HOME", str(home))
    return home


DATA = "{type: digits, held_out: 0.2}"
MODEL = "  architecture: qwen3\n  config: {hidden_size: 32, num_hidden_layers: 2}\n"


def test_a_home_is_that_of_whoever_reads_the_study(folder: Folder, edited: Any, home: Path) -> None:
    def jobs(data: str, model: str) -> list[str]:
        changes = (DATA, f"{{path: {data}, held_out: 0.2}}"), (MODEL, f"  model_name_or_path: {model}\n")
        return [planned.job.id for planned in folder.plan(edited(*changes)).jobs]

    assert jobs("~/train.jsonl", "~/model") == jobs(str(home / "train.jsonl"), str(home / "model"))
    assert data_files(FileDataset(path="~/train.jsonl"), folder.root) == [home / "train.jsonl"]


@pytest.mark.parametrize("place", ["~/trian.jsonl", "~nobody-of-that-name/train.jsonl"])
def test_a_home_without_it_is_told_as_written(folder: Folder, edited: Any, home: Path, place: str) -> None:
    with pytest.raises(StudyError, match=f"there is no file `{place}`"):
        folder.load(edited((DATA, f"{{path: {place}, held_out: 0.2}}")))

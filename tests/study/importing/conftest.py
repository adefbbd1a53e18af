"""Importing a configuration in a test: a folder with the file, and data as LLaMA-Factory declares them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.stage import TrainStage
from tunestudy.study.importing.finish import import_config
from tunestudy.study.load import LoadedStudy, load_study

EXAMPLES = Path(__file__).parent / "examples"


class Importing:
    """A folder in which configurations are imported."""

    def __init__(self, root: Path, read: Callable[[], Any]) -> None:
        self.root, self._read = root, read
        self.output = root / "study.yaml"
        self.printed = ""

    def write(self, text: str, name: str = "config.yaml") -> Path:
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, path: Path, *arguments: str, **options: Any) -> Exit:
        """Import a file; what is printed is in `printed`."""
        known: dict[str, Any] = {"program": None, "gpus": None, "force": True, "strict": False, "output": self.output}
        try:
            return import_config(path, list(arguments), **{**known, **options})
        finally:
            self.printed = self._read().out

    def study(self, text: str, name: str = "config.yaml", *arguments: str, **options: Any) -> LoadedStudy:
        """The study that a configuration becomes."""
        self.run(self.write(text, name), *arguments, **options)
        return load_study(self.output)

    def stage(self, text: str, name: str = "config.yaml", **options: Any) -> TrainStage:
        """Its one stage."""
        (variant,) = self.study(text, name, **options).study.variants.values()
        return variant.training["tune"]

    def error(self, text: str, name: str = "config.yaml", *arguments: str, **options: Any) -> str:
        """The message that importing ends with, the folder's path taken out."""
        with pytest.raises(StudyError) as caught:
            self.run(self.write(text, name), *arguments, **options)
        assert caught.value.exit_code == Exit.STUDY_WRONG
        return str(caught.value).replace(f"{self.root}/", "")


@pytest.fixture
def importing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Importing:
    return Importing(tmp_path, capsys.readouterr)


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """`data/` as LLaMA-Factory has it: declarations and small files."""
    folder = tmp_path / "data"
    folder.mkdir()
    turns = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}], "images": []}
    (folder / "identity.json").write_text(json.dumps([{"instruction": "1+1", "input": "", "output": "2"}]))
    (folder / "alpaca_en_demo.json").write_text(json.dumps([{"instruction": "1+1", "output": "2"}]))
    (folder / "mllm_demo.json").write_text(json.dumps([turns]))
    info = {
        "identity": {"file_name": "identity.json"},
        "alpaca_en_demo": {"file_name": "alpaca_en_demo.json", "num_samples": 7},
        "asked": {"file_name": "identity.json", "columns": {"prompt": "q", "response": "a", "tools": "t"}},
        "ranked": {"file_name": "identity.json", "ranking": True},
        "of_hub": {"hf_hub_url": "org/set", "formatting": "sharegpt", "subset": "en", "split": "part"},
        "mllm_demo": {
            "file_name": "mllm_demo.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        },
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder

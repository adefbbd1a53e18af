"""A study small enough to read in a test, and ways to load and plan it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tunestudy.config.errors import StudyError
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = """\
study: digits
seeds: [1, 2, 3]
model:
  architecture: qwen3
  config: {hidden_size: 32, num_hidden_layers: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg"}
datasets:
  upright: {type: digits, held_out: 0.2}
  rotated: {type: digits, rotate: 90, held_out: 0.2}
benchmarks:
  accuracy: {type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}
defaults:
  learning_rate: 1e-3
  effective_batch_size: 32
stages:
  base: {data: upright, max_steps: 300}
  adapt: {data: rotated, max_steps: 200}
variants:
  untrained: {stages: [base]}
  full: {stages: [base, adapt]}
  lora_r{r}:
    matrix: {r: [4, 16]}
    stages: [base, adapt]
    overrides:
      adapt.adapter.lora_r: "{r}"
"""


class Folder:
    """A folder with one study file in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "study.yaml"
        self.results = root / "results"

    def write(self, text: str = STUDY) -> Path:
        self.path.write_text(text, encoding="utf-8")
        return self.path

    def load(self, text: str = STUDY, *overrides: str) -> LoadedStudy:
        return load_study(self.write(text), overrides)

    def plan(self, text: str = STUDY, *overrides: str) -> Plan:
        return make_plan(self.load(text, *overrides), self.results)

    def error(self, text: str, *overrides: str) -> str:
        """The message that loading ends with, the folder's path taken out."""
        self.write(text)
        return self.error_of_file(*overrides)

    def error_of_file(self, *overrides: str) -> str:
        """The same for the file as it lies there."""
        with pytest.raises(StudyError) as caught:
            load_study(self.path, overrides)
        assert caught.value.exit_code == 2
        return str(caught.value).replace(f"{self.root}/", "")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def edited() -> Callable[..., str]:
    """The study with pieces of its text replaced; each piece must be there."""

    def edit(*changes: tuple[str, str]) -> str:
        text = STUDY
        for old, new in changes:
            assert old in text, f"{old!r} is not in the study"
            text = text.replace(old, new, 1)
        return text

    return edit

"""Published configurations become studies that load and plan, and none of their keys is lost."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tunestudy.study.importing.convert import convert
from tunestudy.study.importing.programs import PROGRAMS
from tunestudy.study.importing.reading import read_given
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

EXAMPLES = Path(__file__).parent / "examples"
FILES = sorted(EXAMPLES.iterdir())
PROGRAM_OF = {"llamafactory": "llamafactory", "swift": "ms-swift", "axolotl": "axolotl", "trl": "trl"}
PER_PROGRAM = 3


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_published_configurations_plan(file: Path, importing: Any, declared: Path) -> None:
    path = Path(shutil.copy(file, importing.root))
    importing.run(path)
    assert len(make_plan(load_study(importing.output), importing.root / "results").jobs) == 1
    assert "it plans: 1 job" in importing.printed


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_no_key_is_lost(file: Path, tmp_path: Path, declared: Path) -> None:
    path = Path(shutil.copy(file, tmp_path))
    given = read_given(path, [])
    made = convert(given, wanted=None, gpus=None, target=tmp_path, name="study")
    told = {one.key for one in made.outcomes}
    assert made.program.name == PROGRAM_OF[file.name.partition("_")[0]]
    assert given.values.keys() <= told
    assert {f"env.{name}" for name in given.env} <= told
    assert not [one for one in made.outcomes if "has no such key" in one.words]


def test_enough_of_each_program() -> None:
    counts = {name: sum(file.name.startswith(start) for file in FILES) for start, name in PROGRAM_OF.items()}
    assert counts.keys() == PROGRAMS.keys()
    assert min(counts.values()) >= PER_PROGRAM

"""`tunestudy eval --model`: words sorted, a model by itself as a study."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config import definition as definition_module
from tunestudy.config.definition import definition
from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.without_study.eval_words import sorted_out
from tunestudy.launch.without_study.evaluate_model import Wanted, evaluate_model
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir
from tunestudy.study.load import load_study

FAKE = Path(__file__).parents[1] / "fake_scorer.py"


def fake(folder: JobDir, _ranks: int) -> list[str]:
    return [sys.executable, str(FAKE), str(folder.root)]


def started(results: Path, study: str = "s") -> dict[str, list[str]]:
    """Stage → the benchmarks that each start of its jobs was given."""
    found: dict[str, list[str]] = {}
    for path in sorted((results / study / "jobs").glob("*/starts.txt")):
        found.setdefault(path.parent.name.rpartition("-")[0], []).extend(path.read_text().splitlines())
    return found


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four benchmarks, in place of those that ship, and a model that sees."""
    home = tmp_path / "definitions"
    home.mkdir()
    for name in ("chartqa", "docvqa", "textvqa", "mmbench_en"):
        (home / f"{name}.yaml").write_text(
            f"{{version: 1, metric: exact, images: [image], data: {{name: o/{name}, split: test}},"
            " tiny: {kind: shapes, count: 5}}"
        )
    monkeypatch.setattr(definition_module, "HOME", home)
    definition.cache_clear()
    write_json(tmp_path / "models/InternVL (8B)/config.json", {"model_type": "internvl", "torch_dtype": "bfloat16"})
    yield tmp_path / "models/InternVL (8B)"
    definition.cache_clear()


def wanted(*benchmarks: str, **options: Any) -> Wanted:
    return Wanted(benchmarks=benchmarks, **options)


def test_a_model_by_itself(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, output = tmp_path / "results", tmp_path / "tables" / "a0.csv"
    asked = wanted("mmb_en", "chartqa,docvqa", batch_size=4, limit=9, compat="strict", num_gpus=2)
    assert evaluate_model(str(shipped), asked, results, output=output, command=fake) == Exit.DONE
    told = capsys.readouterr()
    assert "understood --benchmarks: mmb_en → mmbench_en" in told.err
    assert f"table: {output}" in told.out
    (folder,) = results.iterdir()
    assert folder.name.startswith("eval-InternVL-8B-")
    assert (folder / "report/index.html").is_file()
    study = load_study(folder / "study.yaml").study
    assert {name: (one.batch_size, one.limit, one.compat) for name, one in study.benchmarks.items()} == dict.fromkeys(
        ("mmbench_en", "chartqa", "docvqa"), (4, 9, "strict")
    )
    assert study.datasets["docvqa"].name == "o/docvqa"
    assert (study.resources.ranks, study.model.dtype) == (2, "bfloat16")
    assert str(tmp_path) not in (folder / "study.yaml").read_text()
    rows = list(csv.DictReader(output.open()))
    assert [(row["variant"], row["n_seeds"]) for row in rows] == [("InternVL-8B", "1")] * 3
    assert evaluate_model(str(shipped), asked, results, output=output, command=fake) == Exit.DONE
    assert started(results, folder.name) == {"base_model": ["['chartqa', 'docvqa', 'mmbench_en']"]}
    more = wanted("chartqa", "textvqa", batch_size=4, limit=9, compat="strict")
    assert evaluate_model(str(shipped), more, results, output=output, command=fake) == Exit.DONE
    assert [row["benchmark"] for row in csv.DictReader(output.open())] == ["chartqa", "textvqa"]
    assert len(started(results, folder.name)["base_model"]) == 2


def test_records_of_ones_own_and_small_ones(shipped: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("mmb_en.tsv", "docvqa.jsonl", "docvqa.parquet"):
        data.mkdir(exist_ok=True)
        (data / name).write_text("x\n")
    (data / "chartqa").mkdir()
    (data / "chartqa" / "part.jsonl").write_text("{}\n")
    asked = wanted("mmbench_en", "docvqa", "chartqa", data=data)
    assert evaluate_model(str(shipped), asked, tmp_path / "r", output=None, command=fake) == Exit.DONE
    (folder,) = (tmp_path / "r").iterdir()
    paths = {name: Path(one.path).name for name, one in load_study(folder / "study.yaml").study.datasets.items()}
    assert paths == {"mmbench_en": "mmb_en.tsv", "docvqa": "docvqa.parquet", "chartqa": "chartqa"}
    with pytest.raises(StudyError, match=r"holds no textvqa\.\(parquet\|.*and no folder textvqa"):
        evaluate_model(str(shipped), wanted("textvqa", data=data), tmp_path / "r", output=None, command=fake)
    small = wanted("chartqa", tiny=True)
    assert evaluate_model(str(shipped), small, tmp_path / "t", output=None, command=fake) == Exit.DONE
    (folder,) = (tmp_path / "t").iterdir()
    assert load_study(folder / "study.yaml").study.datasets["chartqa"].count == 5


@pytest.mark.parametrize(
    ("model", "asked", "told"),
    [
        ("MODEL", wanted("textva"), "--benchmarks: there is no benchmark `textva`; did you mean `textvqa`?"),
        ("nowhere at all", wanted("textva"), "--benchmarks: there is no benchmark `textva`; did you mean `textvqa`?"),
        ("nowhere at all", wanted("textvqa"), "--model: nowhere at all: there is no such folder, and it is no hub id"),
        ("MODEL/config.json", wanted("textvqa"), "is a file; give the folder that holds it"),
        ("MODEL", wanted(), "--benchmarks: name at least one of chartqa, docvqa, mmbench_en, textvqa"),
        ("MODEL", wanted("textvqa", compat="lmms"), "--compat: must be one of official, lmms-eval, strict; got `lmms`"),
        ("MODEL", wanted("textvqa", data=Path("/nowhere")), "--data: there is no folder /nowhere"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    shipped: Path, tmp_path: Path, model: str, asked: Wanted, told: str
) -> None:
    with pytest.raises(StudyError) as caught:
        evaluate_model(model.replace("MODEL", str(shipped)), asked, tmp_path / "r", output=None, command=fake)
    assert told in str(caught.value)
    assert caught.value.exit_code == Exit.STUDY_WRONG
    assert not (tmp_path / "r").exists()


def test_a_text_model_is_not_shown_images(shipped: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "blind/config.json", {"model_type": "llama"})
    with pytest.raises(StudyError, match=r"benchmarks.textvqa.type: textvqa shows images"):
        evaluate_model(str(tmp_path / "blind"), wanted("textvqa"), tmp_path / "r", output=None, command=fake)
    assert list((tmp_path / "r").iterdir()) == []


NONE = {"data": None, "batch_size": None}


@pytest.mark.parametrize(
    ("words", "benchmarks", "study", "overrides", "names"),
    [
        (["s.yaml"], [], "s.yaml", (), ()),
        (["s.yaml", "seeds=[1]", "b"], ["a"], "s.yaml", ("seeds=[1]",), ("a", "b")),
        (["b", "s.yaml"], ["a"], "s.yaml", (), ("a", "b")),
        (["s.yaml", "x.y=1"], ["a,b"], "s.yaml", ("x.y=1",), ("a", "b")),
    ],
)
def test_words_with_a_study(
    words: list[str], benchmarks: list[str], study: str, overrides: tuple[str, ...], names: tuple[str, ...]
) -> None:
    asked = sorted_out(words, benchmarks, model="", options=NONE, num_gpus=1)
    assert (asked.study, asked.overrides, asked.benchmarks) == (Path(study), overrides, names)


def test_a_setting_that_names_a_file_is_no_study() -> None:
    asked = sorted_out(["resources.hostfile=h.yml", "s.yaml"], [], model="", options=NONE, num_gpus=1)
    assert (asked.study, asked.overrides) == (Path("s.yaml"), ("resources.hostfile=h.yml",))


def test_words_with_a_model() -> None:
    asked = sorted_out(["b", "c"], ["a"], model="m", options={**NONE, "batch_size": 4}, num_gpus=2)
    assert asked.study is None
    assert asked.wanted(tiny=True) == Wanted(benchmarks=("a", "b", "c"), batch_size=4, tiny=True, num_gpus=2)


@pytest.mark.parametrize(
    ("words", "model", "options", "told"),
    [
        (["s.yaml"], "m", NONE, "`s.yaml` is no benchmark, and --model needs no study file"),
        (["a=1"], "m", NONE, "`a=1` is no benchmark"),
        ([], "", NONE, "give a study file, or --model PATH"),
        (["s.yaml"], "", {**NONE, "batch_size": 4}, "--batch_size: goes with --model"),
        (["s.yaml", "chartqa"], "", NONE, "`chartqa` is no key.path=value"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], model: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(StudyError) as caught:
        sorted_out(words, [], model=model, options=options, num_gpus=1)
    assert told in str(caught.value)

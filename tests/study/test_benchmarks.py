"""Public benchmarks in study files: short forms, other spellings, their own data, and what is refused where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from locks import locked

from tunestudy.config import definition as definition_module
from tunestudy.config.definition import definition, read_definition
from tunestudy.config.model import ModelConfig
from tunestudy.records.atomic import write_json
from tunestudy.records.locked import Lock, write_lock
from tunestudy.study.benchmarks import OTHER_NAMES, benchmark_named
from tunestudy.study.fingerprint import significant
from tunestudy.study.load import load_study
from tunestudy.study.plan import make_plan

Folder = Any
Edit = Callable[..., str]
OWN = "{accuracy: {type: exact_match, dataset: rotated@held_out, max_new_tokens: 1}}"
EYES = '{architecture: internvl, config: {}, tokenizer: {type: characters, alphabet: "ab"}}'
STUDY = """\
study: seen
seeds: [1]
model: MODEL
BENCHMARKS
variants:
  A0: {stages: []}
"""

DEFINITIONS = {
    "chartqa": "{version: 1, metric: exact, images: [image], data: {name: o/charts, split: test},"
    " tiny: {kind: shapes, count: 5}}",
    "mmbench_en": "{version: 2, metric: choice, images: [image], choices: [A, B], asks_for: letter, answer_is: letter,"
    " data: {name: o/mmb, subset: en, split: dev}, tiny: {kind: shapes, count: 6, answer_form: choice}}",
    "textvqa": "{version: 1, metric: vqa, images: [image], data: {name: o/textvqa, split: validation}}",
    "wtq": "{version: 1, metric: denotation}",
}


@pytest.fixture(autouse=True)
def a_few_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Definitions of these tests in place of those that ship."""
    home = tmp_path / "definitions"
    home.mkdir()
    for name, text in DEFINITIONS.items():
        (home / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(definition_module, "HOME", home)
    definition.cache_clear()
    yield home
    definition.cache_clear()


def study(benchmarks: str, model: str = EYES) -> str:
    return STUDY.replace("BENCHMARKS", benchmarks).replace("MODEL", model)


def test_a_list_of_names_brings_its_own_data(folder: Folder) -> None:
    loaded = folder.load(study("benchmarks: [chartqa, mmb_en]"))
    assert {name: (one.type, one.dataset) for name, one in loaded.study.benchmarks.items()} == {
        "chartqa": ("chartqa", "chartqa"),
        "mmbench_en": ("mmbench_en", "mmbench_en"),
    }
    data = loaded.study.datasets["mmbench_en"]
    assert (data.type, data.name, data.subset, data.split) == ("hub", "o/mmb", "en", "dev")
    assert [line.rpartition(": ")[2] for line in loaded.translations] == ["mmb_en → mmbench_en"]
    assert ":4: " in loaded.translations[0]
    plan = make_plan(loaded, folder.results)
    assert set(plan.jobs[0].job.datasets) == {"chartqa", "mmbench_en"}
    assert any("o/mmb" in line and "pinned" in line for line in plan.warnings)


def test_a_pinned_revision_is_part_of_the_score(folder: Folder) -> None:
    text = study("benchmarks: [chartqa]")
    before = folder.plan(text).jobs[0].job
    write_lock(folder.root / "seen.lock", Lock("seen").with_items([locked("dataset", "o/charts", "default")]))
    after = folder.plan(text)
    assert not any("pinned" in line and "o/charts" in line for line in after.warnings)
    assert after.jobs[0].job.fingerprint == before.fingerprint
    assert after.jobs[0].job.evaluations["chartqa"].fingerprint != before.evaluations["chartqa"].fingerprint


def test_a_name_that_is_taken_is_left_alone(folder: Folder) -> None:
    taken = "datasets: {chartqa: {type: digits}}\nbenchmarks: {a: {type: chartqa}, b: {type: chartqa, limit: 3}}"
    loaded = folder.load(study(taken))
    assert {one.dataset for one in loaded.study.benchmarks.values()} == {"benchmark-chartqa"}
    assert loaded.study.datasets["chartqa"].type == "digits"


def test_own_data_are_read_where_they_are_named(folder: Folder) -> None:
    loaded = folder.load(study("datasets: {mine: {type: digits}}\nbenchmarks: {a: {type: chartqa, dataset: mine}}"))
    assert loaded.study.benchmarks["a"].dataset == "mine"
    assert list(loaded.study.datasets) == ["mine"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("mmb_en", "mmbench_en"),
        ("MMBench-EN", "mmbench_en"),
        ("docvqa", None),
        ("textva", None),
        ("ChartQA", "chartqa"),
    ],
)
def test_other_spellings(written: str, meant: str | None) -> None:
    assert benchmark_named(written) == meant


def test_no_other_spelling_hides_a_name() -> None:
    assert not OTHER_NAMES.keys() & DEFINITIONS.keys()


@pytest.mark.parametrize(
    ("benchmarks", "told"),
    [
        ("benchmarks: [chartqa, textva]", "study.yaml:4: benchmarks.textva.type: there is no type `textva`; "
         "did you mean `textvqa`?"),
        ("benchmarks:\n  a: {type: mmbnch_en}", "study.yaml:5: benchmarks.a.type: there is no type `mmbnch_en`; "
         "did you mean `mmbench_en`?"),
        ("benchmarks: [chartqa, ChartQA]", "study.yaml:4: benchmarks.1: `chartqa` stands twice"),
        ("benchmarks: [{type: chartqa}]", "benchmarks.0: a list holds names of public benchmarks, got a mapping"),
        ("benchmarks: [wtq]", "`dataset` is missing: the records of wtq are on no hub"),
        ("benchmarks:\n  a: {type: textvqa, circular: true}", "a.circular: textvqa has no options to rotate; leave it"),
        ("benchmarks:\n  a: {type: textvqa, answer_by: letter}", "a.answer_by: textvqa has no options to choose from"),
        ("benchmarks:\n  a: {type: textvqa, compat: lmms}", "a.compat: must be one of official, lmms-eval, strict"),
        ("benchmarks:\n  a: {type: textvqa, limit: 0}", "a.limit: must be greater than 0"),
        ("benchmarks:\n  a: {type: textvqa, checkpoints: [0]}", "a.checkpoints: must be true, false, all, or a list"),
        ("benchmarks:\n  a: {type: textvqa, definition: {}}", "there is no key `definition` here"),
        ("benchmarks:\n  a: {type: exact_match}", "`dataset` is missing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(folder: Folder, benchmarks: str, told: str) -> None:
    assert told in folder.error(study(benchmarks))


def test_a_misspelt_name_is_told_once(folder: Folder) -> None:
    assert len(folder.error(study("benchmarks: [textva]")).splitlines()) == 1


def test_options_that_fit(folder: Folder) -> None:
    text = "benchmarks: {m: {type: mmbench_en, circular: true, answer_by: letter, compat: strict, checkpoints: all}}"
    found = folder.load(study(text)).study.benchmarks["m"]
    assert (found.circular, found.answer_by, found.compat, found.checkpoints) == (True, "letter", "strict", True)
    assert folder.load(study(text.replace("all", "[5, 10]"))).study.benchmarks["m"].checkpoints == (5, 10)


@pytest.mark.parametrize(("kind", "seen"), [("qwen3", False), ("internvl", True)])
def test_images_need_a_model_with_eyes(folder: Folder, kind: str, seen: bool) -> None:
    text = study("benchmarks: [chartqa]", EYES.replace("internvl", kind))
    if seen:
        folder.load(text)
    else:
        assert "study.yaml:4: benchmarks.chartqa.type: chartqa shows images, and" in folder.error(text)


def test_a_folder_tells_whether_it_sees(folder: Folder) -> None:
    for name, config in {"blind": {"model_type": "llama"}, "seeing": {"model_type": "x", "vision_config": {}}}.items():
        write_json(folder.root / name / "config.json", config)
    folder.load(study("benchmarks: [chartqa]", "{model_name_or_path: seeing}"))
    assert "(llama) takes none" in folder.error(study("benchmarks: [chartqa]", "{model_name_or_path: blind}"))


TINY = "tiny: {model: MODEL}\n".replace("MODEL", EYES)


def test_tiny_draws_what_has_no_small_form(folder: Folder) -> None:
    text = """\
datasets:
  charts: {name: o/mine, held_out: 0.5}
  drawn: {type: synth, kind: shapes, count: 9}
benchmarks:
  a: {type: chartqa, dataset: charts}
  b: {type: mmbench_en}
  c: {type: chartqa, dataset: drawn}
"""
    path = folder.write(study(text) + TINY)
    large, small = load_study(path), load_study(path, tiny=True)
    assert [one.dataset for one in large.study.benchmarks.values()] == ["charts", "mmbench_en", "drawn"]
    assert [one.dataset for one in small.study.benchmarks.values()] == ["chartqa", "mmbench_en", "drawn"]
    assert {name: (one.type, one.count) for name, one in small.study.datasets.items()} == {
        "drawn": ("synth", 9),
        "chartqa": ("synth", 5),
        "mmbench_en": ("synth", 6),
    }


def test_tiny_keeps_what_a_stage_reads_and_what_has_a_small_form(folder: Folder) -> None:
    text = study(
        "datasets: {charts: {name: o/mine}, other: {name: o/x}}\n"
        "benchmarks: {a: {type: chartqa, dataset: charts}, b: {type: chartqa, dataset: other}}\n"
        "stages: {s: {data: charts, learning_rate: 1, effective_batch_size: 1}}"
    ).replace("A0: {stages: []}", "A1: {stages: [s]}")
    small = load_study(folder.write(f"{text}tiny: {{datasets: {{other: {{type: digits}}}}}}\n"), tiny=True)
    assert [one.dataset for one in small.study.benchmarks.values()] == ["chartqa", "other"]
    assert set(small.study.datasets) == {"charts", "other", "chartqa"}


def test_tiny_says_what_cannot_be_drawn(folder: Folder) -> None:
    path = folder.write(study("benchmarks: [textvqa]") + TINY)
    with pytest.raises(Exception, match="textvqa has no small generated set"):
        load_study(path, tiny=True)


def test_a_changed_prompt_is_named_and_trains_nothing(folder: Folder, a_few_benchmarks: Path) -> None:
    text = study("benchmarks: [chartqa]")
    before = folder.plan(text)
    write_json(before.folder.plan_json, before.as_json())
    write_json(before.folder.job(before.jobs[0].job.id).job_json, before.jobs[0].job.model_dump(mode="json"))
    assert folder.plan(text).changes == []
    home = a_few_benchmarks / "chartqa.yaml"
    home.write_text(
        home.read_text().replace("metric: exact", 'metric: exact, title: New, prompt: "Q\\n{{ question }}"')
    )
    definition.cache_clear()
    after = folder.plan(text)
    assert after.jobs[0].job.id == before.jobs[0].job.id
    change = "benchmarks.chartqa.definition.prompt {{ question }} → Q {{ question }}"
    assert [str(one) for one in after.changes] == [f"base_model (A0): 1 job scored again: {change}"]


def test_changed_records_are_named(folder: Folder) -> None:
    text = study("datasets: {mine: {path: m.jsonl}}\nbenchmarks: {a: {type: chartqa, dataset: mine}}")
    (folder.root / "m.jsonl").write_text("{}\n")
    before = folder.plan(text)
    write_json(before.folder.plan_json, before.as_json())
    write_json(before.folder.job(before.jobs[0].job.id).job_json, before.jobs[0].job.model_dump(mode="json"))
    (folder.root / "m.jsonl").write_text("{}\n{}\n")
    assert "scored again: datasets.mine.content" in str(folder.plan(text).changes[0])


def test_what_ships_is_whole_and_documented() -> None:
    root = Path(__file__).parents[2]
    documented = (root / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for path in (root / "src/tunestudy/config/definitions").glob("*.yaml"):
        assert read_definition(path).metric
        assert f"`{path.stem}`" in documented
    assert all(f"`{name}`" in documented for name in OTHER_NAMES.values())


def test_weights_over_a_model_are_for_evaluation(folder: Folder) -> None:
    write_json(folder.root / "base" / "config.json", {"model_type": "internvl"})
    write_json(folder.root / "adapter" / "adapter_config.json", {})
    model = "{model_name_or_path: base, weights: adapter}"
    text = study("benchmarks: [chartqa]", model)
    with_weights = folder.plan(text).jobs[0].job
    assert (
        with_weights.fingerprint
        != folder.plan(study("benchmarks: [chartqa]", "{model_name_or_path: base}")).jobs[0].job.fingerprint
    )
    write_json(folder.root / "adapter" / "adapter_config.json", {"r": 2})
    assert folder.plan(text).jobs[0].job.fingerprint != with_weights.fingerprint
    assert "model.weights: `gone` is no folder with one of adapter_config.json," in folder.error(
        text.replace("adapter}", "gone}")
    )
    trains = text.replace("A0: {stages: []}", "A1: {stages: [s]}")
    trains += "datasets: {d: {type: digits}}\nstages: {s: {data: d, learning_rate: 1, effective_batch_size: 1}}\n"
    assert "model.weights: is for evaluation alone, and `A1` trains" in folder.error(trains)


def test_a_model_without_weights_is_what_it_was() -> None:
    """Jobs of studies that were made before there were `weights` keep their names."""
    plain = ModelConfig(model_name_or_path="o/m")
    assert "weights" not in significant(plain)
    assert significant(plain.model_copy(update={"weights": "a"})) == {**significant(plain), "weights": "a"}


def test_checkpoints_are_no_part_of_a_score(folder: Folder, edited: Edit) -> None:
    own = "max_new_tokens: 1}"
    plans = [folder.plan(edited((own, f"max_new_tokens: 1, checkpoints: {value}}}"))) for value in ("false", "all")]
    scores = [[one.job.evaluations.get("accuracy") for one in plan.jobs] for plan in plans]
    assert [one and one.fingerprint for one in scores[0]] == [one and one.fingerprint for one in scores[1]]
    warned = [[line for line in plan.warnings if "of checkpoints" in line] for plan in plans]
    assert not warned[0]
    assert "after `base` only its last and best are left" in warned[1][0]
    kept = edited(
        (own, "max_new_tokens: 1, checkpoints: all}"), ("defaults:\n", "defaults:\n  drop_intermediate: false\n")
    )
    assert not [line for line in folder.plan(kept).warnings if "of checkpoints" in line]

"""`tune-batch` from the study file to what it prints; tries are made up but in the last tests, which run real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch.requests import tune_batch as module
from tunestudy.launch.torchrun import Command
from tunestudy.records.atomic import write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir
from tunestudy.study.estimates.timing import expected_times
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

STUDY = """\
study: small
seeds: [1]
model:
  architecture: qwen3
  config: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg="}
datasets:
  d: {type: digits, trim: true, held_out: 0.2}
defaults: {data: d, eval_subset_size: 8, learning_rate: 1e-3}
stages:
  base: {max_steps: 30, effective_batch_size: 8, per_device_train_batch_size: 1}
variants:
  plain: {stages: [base]}
resources: {slots: 1}
"""

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedStudy:
    return study_of(tmp_path)


def study_of(tmp_path: Path, *overrides: str, text: str = STUDY) -> LoadedStudy:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return load_study(path, overrides)


def fits(settings: dict[str, Any], *, rows: int = 4) -> dict[str, Any]:
    """A card of 10 GB that holds `rows` rows; the more at once the faster."""
    micro = settings["per_device_train_batch_size"]
    facts = {"device": "NVIDIA Test", "card_bytes": 10**10, "limit_bytes": 10**10, "taken_bytes": 0}
    if micro > rows:
        return {**facts, "fits": False, "why": "CUDA out of memory", "peak_bytes": 10**10}
    speed = 100.0 * micro
    figures = {"tokens_per_s": speed, "rates": [speed] * 5, "samples_per_s": micro, "step_s": 8 / micro}
    return {**facts, **figures, "fits": True, "peak_bytes": 2 * 10**9 * micro, "wait_share": 0.0, "learnt": [2.0, 1.0]}


class FakeTries:
    """Stands in for the processes: each is told what a job's settings are and answers with its try.json."""

    def __init__(self) -> None:
        self.answer: Answer = fits
        self.asked: list[tuple[int, bool]] = []

    def command_for(self, _resources: object, base: Path, of: str) -> Command:
        assert base.is_dir()
        return self.probe if of.endswith("probe") else self.attempt

    def attempt(self, folder: JobDir, _ranks: int) -> list[str]:
        settings = json.loads(folder.job_json.read_text())["settings"]
        micro = settings["per_device_train_batch_size"]
        assert micro * settings["gradient_accumulation_steps"] == settings["effective_batch_size"] == 8
        self.asked.append((micro, settings["activation_checkpointing"]))
        found = self.answer(settings)
        if found is None:
            return ["sh", "-c", "echo 'ValueError: mat1 and mat2 do not go together'; exit 1"]
        write_json(folder.root / "try.json", found)
        return ["true"]

    def probe(self, folder: JobDir, _ranks: int) -> list[str]:
        steps = json.loads(folder.job_json.read_text())["settings"]["max_steps"]
        told = {"setup_s": 1.0, "step_s": 2.0, "total_steps": steps, "evaluation_s": None, "evaluations": 1}
        write_json(folder.root / "probe.json", {**told, "inside_s": 9e9})
        return ["true"]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> FakeTries:
    fake = FakeTries()
    monkeypatch.setattr(module, "busy_share", lambda: 0.0)
    monkeypatch.setattr(module, "command_for", fake.command_for)
    return fake


def tune(loaded: LoadedStudy, tmp_path: Path, **options: Any) -> None:
    asked = {
        "variant": "",
        "stage": "",
        "minutes": 5.0,
        "memory_gb": None,
        "fresh": False,
        "print_json": False,
        **options,
    }
    module.tune_batch(loaded, tmp_path / "results", **asked)


def test_says_what_fits_what_is_fastest_and_what_to_set(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(loaded, tmp_path)
    told = capsys.readouterr().out
    assert "plain, stage base: effective batch 8, on NVIDIA Test, 10.0 GB" in told
    assert "4.00 × the tokens per second of now; 20 % of the memory is free" in told
    assert "  per_device_train_batch_size: 4\n" in told and "gradient_accumulation_steps" not in told
    assert "does not fit" in told and "agree in all of them" in told
    assert (8, True) in tries.asked and (1, True) not in tries.asked
    assert not (tmp_path / "results" / "small" / "jobs").exists()
    assert not list((tmp_path / "results" / "small" / "cache").glob("*/")), "folders of tries are gone"


def test_two_at_once_do_not_try_on_one_card(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, refused = module.search, []

    def beside_another(*asked: Any) -> Any:
        with pytest.raises(StudyError, match="does the same just now; wait for it to end") as caught:
            tune(loaded, tmp_path, fresh=True)
        refused.append(caught.value.exit_code)
        return search(*asked)

    monkeypatch.setattr(module, "search", beside_another)
    tune(loaded, tmp_path)
    assert refused == [Exit.PREFLIGHT_REFUSED]


def test_plan_knows_the_time_of_the_chosen_one(loaded: LoadedStudy, tmp_path: Path, tries: FakeTries) -> None:
    tune(loaded, tmp_path)

    def seconds(*overrides: str) -> float | None:
        plan = make_plan(study_of(tmp_path, *overrides), tmp_path / "results")
        return expected_times(plan, ranks=1, host=host_name())[plan.jobs[0].job.id].train_s

    assert seconds() is None and seconds("stages.base.per_device_train_batch_size=4") == 61.0


def test_json_holds_the_same(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(loaded, tmp_path, print_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["set"] == {"per_device_train_batch_size": 4} and told["finished"] and told["steps_agree"]
    assert told["best"]["gradient_accumulation_steps"] == 2 and told["best"]["peak_bytes"] == 8 * 10**9
    assert [one["usable"] for one in told["tried"]].count(False) == 1  # 8 rows with checkpointing; without: foreseen


def test_a_stage_that_names_its_accumulation_is_told_the_new_one(
    tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STUDY.replace("effective_batch_size: 8,", "gradient_accumulation_steps: 8,")
    tune(study_of(tmp_path, text=text), tmp_path)
    told = capsys.readouterr().out
    for line in ("per_device_train_batch_size: 4", "gradient_accumulation_steps: 2", "effective_batch_size: 8"):
        assert f"  {line}\n" in told


def test_keys_go_where_they_count(tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]) -> None:
    over = "{stages: [base], matrix: {x: [1.5]}, overrides: {base: {per_device_train_batch_size: 1}}}"
    text = STUDY.replace("  plain: {stages: [base]}", f'  "plain_{{x}}": {over}')
    tune(study_of(tmp_path, text=text), tmp_path)
    assert "Put into `variants: plain_{x}: overrides: base:`" in capsys.readouterr().out


def test_a_stage_of_another_variant_needs_no_variant(
    tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = "  longer: {stages: [base, more]}"
    more = "  more: {max_steps: 30, effective_batch_size: 8, per_device_train_batch_size: 1}"
    text = STUDY.replace("variants:", f"{more}\nvariants:").replace("resources", f"{longer}\nresources")
    tune(study_of(tmp_path, text=text), tmp_path, stage="more")
    assert "longer, stage more: effective batch 8" in capsys.readouterr().out
    with pytest.raises(StudyError, match="the study has no stage `many`; known are: base, more"):
        tune(study_of(tmp_path, text=text), tmp_path, stage="many")
    with pytest.raises(StudyError, match="`plain` has no stage `more`; known are: base"):
        tune(study_of(tmp_path, text=text), tmp_path, stage="more", variant="plain")


def test_time_that_is_up_and_ctrl_c_keep_what_was_measured(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(loaded, tmp_path, minutes=1e-9)
    assert "Time is up" in capsys.readouterr().out and len(tries.asked) == 1

    def interrupted(_settings: dict[str, Any]) -> dict[str, Any]:
        raise KeyboardInterrupt

    tries.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        tune(loaded, tmp_path)
    assert "1 measured, and kept" in capsys.readouterr().err
    tries.answer = fits
    tune(loaded, tmp_path)
    assert tries.asked.count((1, False)) == 1 and "per_device_train_batch_size: 4" in capsys.readouterr().out
    before = len(tries.asked)
    tune(loaded, tmp_path)
    assert len(tries.asked) == before, "all of it is known"
    tune(loaded, tmp_path, memory_gb=8)
    assert len(tries.asked) > before, "another card is another question"
    tune(loaded, tmp_path)
    before = len(tries.asked)
    tune(loaded, tmp_path, fresh=True)
    assert len(tries.asked) > before


def test_nothing_fits_says_what_would_help(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tries.answer = lambda settings: fits(settings, rows=0)
    with pytest.raises(StudyError, match=r"not even one row.*with activation checkpointing.*max_length.*fsdp2") as told:
        tune(loaded, tmp_path)
    assert told.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert {(1, False), (1, True)} <= set(tries.asked)


def test_steps_that_do_not_run_are_told_with_their_last_words(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries
) -> None:
    tries.answer = lambda _settings: None
    with pytest.raises(StudyError, match=r"do not run: ValueError: mat1 and mat2") as told:
        tune(loaded, tmp_path)
    assert told.value.exit_code == Exit.JOBS_FAILED and len(tries.asked) == 1


def test_one_that_fails_is_told_and_the_others_count(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tries.answer = lambda settings: None if settings["per_device_train_batch_size"] == 4 else fits(settings)
    tune(loaded, tmp_path)
    told = capsys.readouterr().out
    assert "failed: ValueError" in told and "per_device_train_batch_size: 2" in told


def test_results_that_depend_on_the_cut_are_told(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, capsys: pytest.CaptureFixture[str]
) -> None:
    tries.answer = lambda settings: {**fits(settings), "learnt": [2.0 + settings["per_device_train_batch_size"], 1.0]}
    tune(loaded, tmp_path)
    assert "results of this model depend on how a step is cut" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"minutes": 0.0}, "--minutes and --memory-gb must be numbers above 0"),
        ({"memory_gb": -1.0}, "--minutes and --memory-gb must be numbers above 0"),
        ({"minutes": float("nan")}, "--minutes and --memory-gb must be numbers above 0"),
        ({"memory_gb": float("inf")}, "--minutes and --memory-gb must be numbers above 0"),
        ({"variant": "plane"}, "did you mean `plain`"),
        ({"stage": "bass"}, "no stage `bass`"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    loaded: LoadedStudy, tmp_path: Path, tries: FakeTries, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(StudyError, match=words):
        tune(loaded, tmp_path, **options)
    assert not tries.asked and not (tmp_path / "results").exists()


@pytest.mark.slow
def test_real_tries_find_the_edge_of_a_card(
    loaded: LoadedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_lab(monkeypatch, rows=1)
    monkeypatch.setattr(module, "remember_speed", lambda *_: None)  # a probe has tests of its own
    small = study_of(tmp_path, "stages.base.effective_batch_size=2", "stages.base.per_device_train_batch_size=2")
    tune(small, tmp_path, print_json=True)
    told = json.loads(capsys.readouterr().out)
    fitting = {one["per_device_train_batch_size"]: one["fits"] for one in told["tried"]}
    assert fitting[2] is False and fitting[1] is True and told["steps_agree"]
    assert told["set"] == {"per_device_train_batch_size": 1}


@pytest.mark.slow
def test_one_rank_out_of_memory_ends_the_try_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_lab(monkeypatch, rows=1)
    monkeypatch.setenv("MEMORY_RANK", "1")
    small = study_of(tmp_path, "resources.ranks=2", "stages.base.per_device_train_batch_size=4")
    tune(small, tmp_path, minutes=1e-9, print_json=True)
    (tried,) = json.loads(capsys.readouterr().out)["tried"]
    assert tried["verdict"] == "does not fit" and tried["why"].startswith("CUDA out of memory")


def with_lab(monkeypatch: pytest.MonkeyPatch, *, rows: int) -> None:
    """Real processes on a card that holds so many rows."""
    import os

    lab = str(Path(__file__).parents[2] / "lab")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (lab, os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("MEMORY_ROWS", str(rows))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(module, "TRY", "scarce_try")

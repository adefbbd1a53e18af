"""What makes `run` refuse, all at once and without writing anything."""

import contextlib
import importlib.util
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.resources import Resources, SlurmSettings
from tunestudy.preflight import checks
from tunestudy.preflight.checks import (
    bytes_needed,
    check,
    environment_problems,
    folder_problems,
    more_environment_problems,
)
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
env:
  NCCL_DEBUG: INFO
variants: {untrained: {stages: []}}
"""


def load(tmp_path: Path, text: str = STUDY) -> LoadedStudy:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    return load_study(file)


def test_all_is_well_and_nothing_is_written(tmp_path):
    check(load(tmp_path), [], StudyDir(tmp_path / "results" / "tiny"))
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_everything_wrong_is_told_at_once_with_its_line(tmp_path, monkeypatch):
    loaded = load(tmp_path, STUDY.replace("NCCL_DEBUG: INFO", "CUDA_VISIBLE_DEVICES: '0'\n  WORLD_SIZE: '2'"))
    monkeypatch.setattr(psutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(StudyError) as caught:
        check(loaded, [], StudyDir(tmp_path / "results"), starts=True)
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    told = str(caught.value)
    for part in ("study.yaml:6", "study.yaml:7", "WORLD_SIZE", "tunestudy[train]", "1.0 kB are free"):
        assert part in told


def test_a_model_that_is_not_here_and_not_to_be_had_is_refused_once(tmp_path, monkeypatch):
    """In place of one failure for every job, each after its tries."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = '{architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}'
    loaded = load(tmp_path, STUDY.replace(own, "{model_name_or_path: nobody/nothing-7b}"))
    jobs = [one.job for one in make_plan(loaded, tmp_path / "results").jobs]
    with pytest.raises(StudyError, match=r"study.yaml:3.*nobody/nothing-7b: not in .*HF_HUB_OFFLINE is set") as caught:
        check(loaded, jobs, StudyDir(tmp_path / "results" / "tiny"))
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    check(loaded, [], StudyDir(tmp_path / "results" / "tiny"))  # nothing is left to do: nothing is needed


def test_a_login_node_without_torch_may_submit_what_an_image_carries_out(tmp_path, monkeypatch):
    loaded = load(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    monkeypatch.setattr(checks, "slurm_problems", lambda _: ())
    for python, refused in ((None, True), ("/opt/python", False)):
        slurm = SlurmSettings(python=python)
        resources = loaded.study.resources.model_copy(update={"executor": "slurm", "slurm": slurm})
        study = loaded.study.model_copy(update={"resources": resources})
        with pytest.raises(StudyError, match="training needs torch") if refused else contextlib.nullcontext():
            check(replace(loaded, study=study), [], StudyDir(tmp_path / "results"), starts=True)


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "MY_PASSWORD"])
def test_secret_names_are_refused_without_showing_the_value(name):
    value = "hunter2" * 3
    (problem,) = environment_problems({name: value})
    assert name in str(problem) and value not in str(problem)


@pytest.mark.parametrize(
    "settings",
    [
        {"ray": {"runtime_env": {"HF_TOKEN": "hunter2"}}},
        {"slurm": {"prologue": ["module load cuda; export HF_TOKEN='hunter2'"]}},
        {"slurm": {"sbatch": ["--export=ALL,HF_TOKEN=hunter2"]}},
    ],
)
def test_secrets_for_the_machines_of_a_cluster_are_refused_too(settings):
    (problem,) = more_environment_problems(Resources.model_validate(settings))
    assert "export HF_TOKEN=…" in str(problem) and "hunter2" not in str(problem)


def test_a_prologue_may_pass_a_secret_on_and_set_anything_else():
    lines = ["export HF_TOKEN=$MY_TOKEN", "export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=4"]
    assert not list(more_environment_problems(Resources.model_validate({"slurm": {"prologue": lines}})))


def test_file_in_the_way_and_folder_without_permission(tmp_path, monkeypatch):
    (tmp_path / "results").write_text("a file")
    (problem,) = folder_problems(tmp_path / "results" / "s", 0)
    assert "is a file" in problem.message

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.Path, "touch", refuse)
    (problem,) = folder_problems(tmp_path / "elsewhere", 0)
    assert "not writable" in problem.message


def test_space_for_full_fine_tuning_of_a_local_model_is_counted(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"0" * 1000)
    text = STUDY.replace(
        '{architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}', "{model_name_or_path: ./model}"
    ).replace(
        "{untrained: {stages: []}}",
        "{full: {stages: [tune]}, lora: {stages: [tune], overrides: {tune: {adapter: {type: lora}}}}}",
    )
    loaded = load(tmp_path, text + "stages: {tune: {data: digits, learning_rate: 1.0e-3, effective_batch_size: 1}}\n")
    jobs = [planned.job for planned in make_plan(loaded, tmp_path / "results").jobs]
    reserve = bytes_needed([], tmp_path)
    full, lora = (next(job for job in jobs if name in job.variants) for name in ("full", "lora"))
    assert bytes_needed([full], tmp_path) - reserve == 1000 + 3 * 1000 * 3
    assert bytes_needed([lora], tmp_path) == reserve
    of_epochs = full.settings.model_copy(update={"full_save_steps": None, "checkpoint_mode": "full"})
    full_again = full.model_copy(update={"settings": of_epochs})
    assert bytes_needed([full_again], tmp_path) == bytes_needed([full], tmp_path)


def one_stage(tmp_path, settings):
    """A study of one stage with these settings, and its jobs."""
    stage = f"{{data: digits, learning_rate: 1e-3, max_steps: 2, max_length: 80, {settings}}}"
    text = STUDY.replace("variants:", f"stages: {{adapt: {stage}}}\nvariants:").replace("stages: []", "stages: [adapt]")
    loaded = load(tmp_path, text)
    return loaded, [one.job for one in make_plan(loaded, tmp_path / "results").jobs]


def test_a_compiler_is_asked_for_before_a_job_starts(tmp_path, monkeypatch):
    loaded, jobs = one_stage(tmp_path, "torch_compile: true")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(StudyError, match=r"stages\.adapt\.torch_compile: needs a C") as told:
        check(loaded, jobs, StudyDir(tmp_path / "results" / "tiny"))
    assert told.value.exit_code == Exit.PREFLIGHT_REFUSED


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ("optim: paged_adamw_8bit", "stages.adapt.optim"),
        ("adapter: {type: lora}, quantization: {load_in_4bit: true}", "stages.adapt.quantization"),
        ("optim: adamw", None),
    ],
)
def test_bitsandbytes_is_asked_for_before_a_job_starts(tmp_path, monkeypatch, settings, key):
    loaded, jobs = one_stage(tmp_path, settings)
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else installed(name))
    if key is None:
        check(loaded, jobs, StudyDir(tmp_path / "results" / "tiny"))
        return
    with pytest.raises(StudyError, match="tunestudy\\[quant\\]") as told:
        check(loaded, jobs, StudyDir(tmp_path / "results" / "tiny"))
    assert key in str(told.value) and told.value.exit_code == Exit.PREFLIGHT_REFUSED


def test_korean_without_a_font_for_it(tmp_path, monkeypatch):
    chart = "{type: synth, kind: chart, count: 9, language: both}"
    sets = f"{{ko: {chart}, shapes: {{type: synth, kind: shapes, count: 9, language: ko}}}}"
    stages = "stages: {learn: {data: [ko, shapes], max_steps: 1, learning_rate: 1}}\nvariants: {one: {stages: [learn]}}"
    text = STUDY.replace("{digits: {type: digits}}", sets).replace("variants: {untrained: {stages: []}}", stages)
    jobs = [planned.job for planned in make_plan(load(tmp_path, text), tmp_path / "results").jobs]
    monkeypatch.setattr(checks, "candidates", lambda language: iter([Path("a font")]))
    assert not list(checks.font_problems(jobs))
    monkeypatch.setattr(checks, "candidates", lambda language: iter([]))
    (problem,) = checks.font_problems(jobs)
    assert str(problem).startswith("datasets.ko.language") and "fonts-nanum" in str(problem)


@pytest.mark.parametrize(
    ("code", "told"), [("raise RuntimeError('operator torchvision::nms is gone')", "nms is gone"), ("", None)]
)
def test_a_torchvision_that_cannot_be_imported_is_told_before_transformers_breaks_on_it(
    code, told, tmp_path, monkeypatch
):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = checks.broken_torchvision()
    assert found is None if told is None else told in found


def test_a_probe_that_another_host_removes_tells_that_the_folder_can_be_written(tmp_path, monkeypatch):
    touch = Path.touch

    def gone(path: Path) -> None:
        touch(path)
        path.unlink()

    monkeypatch.setattr(Path, "touch", gone)
    assert not list(folder_problems(tmp_path, 0))

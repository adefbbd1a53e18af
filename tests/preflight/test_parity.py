"""What `run` refuses is refused by `check`, under the name of its source: no study is called ready that cannot run."""

import errno
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from locks import locked, put_into

from tunestudy.config.errors import Exit, StudyError
from tunestudy.preflight import checks, folders, hosts, metrics, readiness
from tunestudy.preflight.checks import SOURCES, check
from tunestudy.preflight.points import Point, ok
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import Lock, write_lock
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan
from tunestudy.study.problems import CombinedError

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
stages: {adapt: {data: digits, learning_rate: 1e-3, max_steps: 2, max_length: 80}}
variants: {one: {stages: [adapt]}}
"""
OF_HUB = STUDY.replace('{architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}', "{model: org/model}")
OF_HUB = OF_HUB.replace("model: {model:", "model: {model_name_or_path:")
SECRET = "k" * 24

Prepare = Callable[[Path, pytest.MonkeyPatch], object]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No accounts, caches and allocations of whoever runs the tests; little is written."""
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "WANDB_API_KEY", "WANDB_MODE", "SLURM_JOB_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(folders, "WRITTEN_BYTES", 2**10)


def stage(settings: str) -> str:
    return STUDY.replace("data: digits,", f"data: digits, {settings},")


def nothing(*_: object) -> None:
    """The study alone is wrong."""


def without(package: str) -> Prepare:
    def prepare(_: Path, patch: pytest.MonkeyPatch) -> None:
        found = importlib.util.find_spec
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))

    return prepare


def broken_torchvision(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "broken_torchvision", lambda: "operator torchvision::nms does not exist")


def no_compiler(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("CXX", "no-such-compiler")


def no_font(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "candidates", lambda _: iter(()))


def misspelt_mode(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("WANDB_MODE", "ofline")


def lock_of_another(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    write_lock(tmp_path / "tiny.lock", Lock("tiny").with_items([locked("model", "org/other", "weights", "tokenizer")]))


def file_of_the_lock_is_gone(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    item = locked("model", "org/model", "weights", "tokenizer")
    write_lock(tmp_path / "tiny.lock", Lock("tiny").with_items([item]))
    put_into(tmp_path / "hf" / "hub", item)
    next(iter(item.folder(tmp_path / "hf" / "hub").iterdir())).unlink()


def silent_host(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts.txt").write_text("h1 slots=1\nh2 slots=1\n")
    silent = hosts.Difference("reach", "cannot be reached by ssh: no route; `ssh … true` must work without a password")
    answers = {"h1": hosts.facts([]), "h2": silent}
    patch.setattr(hosts, "ask", lambda launcher, host, files: answers[host.name])
    patch.setattr(hosts, "facts", lambda files: answers["h1"])


def slurm(script: str) -> Prepare:
    def prepare(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo") if script else ():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        patch.setenv("PATH", f"{tmp_path}/bin:/nowhere" + ":/usr/bin:/bin" * bool(script))

    return prepare


def pool(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    row = {"image": "http://127.0.0.1:9/1.png", "prompt": "?", "completion": "!"}
    (tmp_path / "pool.jsonl").write_text(json.dumps(row) + "\n")


def file_in_the_way(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").write_text("a file")


def not_writable(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(checks, "_is_writable", lambda _: False)


def stale_handle(_: Path, patch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "/far/results")

    patch.setattr(psutil, "disk_usage", refuse)


def full_disk(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(psutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())


def metric_of_the_hub(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_EVALUATE_OFFLINE", "1")
    patch.setattr(metrics, "told_of", lambda _, tasks: {"own.yaml": {"metrics": ["wer"]}} if tasks else {})
    (folder / "own.yaml").write_text("task: own\n")


OF_HARNESS = STUDY + "benchmarks: {own: {type: lm_eval, tasks: own.yaml}}\n"
CHART = "datasets: {digits: {type: synth, kind: chart, count: 9, language: ko}}"
SLURM = STUDY + "resources: {executor: slurm, slurm: {partition: gpus}}\n"
CASES: list[tuple[str, str, Prepare, str]] = [
    ("env", STUDY + f"env: {{HF_TOKEN: {SECRET}}}\n", nothing, "secrets do not belong"),
    ("env", STUDY + "env: {LOCAL_WORLD_SIZE: '2'}\n", nothing, "for every rank by the launcher"),
    ("env", STUDY + "env: {TUNESTUDY_DEVICES: '0'}\n", nothing, "for every rank by the launcher"),
    ("env", STUDY + f"resources: {{ray: {{runtime_env: {{HF_TOKEN: {SECRET}}}}}}}\n", nothing, "secrets do not belong"),
    ("packages", STUDY, without("accelerate"), "training needs accelerate"),
    ("torchvision", STUDY, broken_torchvision, "torchvision::nms"),
    ("optional parts", stage("optim: adamw_8bit"), without("bitsandbytes"), "tunestudy[quant]"),
    ("optional parts", stage("torch_compile: true"), no_compiler, "needs a C++ compiler"),
    ("optional parts", STUDY.replace("datasets: {digits: {type: digits}}", CHART), no_font, "fonts-nanum"),
    ("trackers", stage("report_to: tensorboard"), without("tensorboard"), "tensorboard is not installed"),
    ("trackers", stage("report_to: wandb"), without("wandb"), "wandb is not installed"),
    ("trackers", stage("report_to: wandb"), nothing, "wandb has no key"),
    ("trackers", stage("report_to: wandb"), misspelt_mode, "is 'ofline'"),
    ("lock", OF_HUB, lock_of_another, "does not hold model org/model"),
    ("lock", OF_HUB, file_of_the_lock_is_gone, "is missing"),
    ("hub", OF_HUB, nothing, "HF_HUB_OFFLINE is set"),
    ("metrics", OF_HARNESS, metric_of_the_hub, "`evaluate` loads wer of own.yaml from the hub, where it is not cached"),
    ("hosts", STUDY + "resources: {hostfile: hosts.txt, ranks: 2}\n", silent_host, "host h2: cannot be reached"),
    ("hosts", STUDY + "resources: {launcher: srun}\n", nothing, "this is none: salloc"),
    ("executor", SLURM, slurm(""), "there is no sbatch"),
    ("executor", SLURM, slurm("echo no controller >&2; exit 1"), "SLURM does not answer: no controller"),
    ("executor", SLURM, slurm("echo 'gpu*|up|infinite|2|gpu:2'"), "there is no partition gpus"),
    (
        "images",
        STUDY.replace("{type: digits}", "{path: pool.jsonl, fetch: {allow_loopback: true}}"),
        pool,
        "have not been fetched",
    ),
    ("results folder", STUDY, file_in_the_way, "is a file"),
    ("results folder", STUDY, not_writable, "not writable"),
    ("results folder", STUDY, full_disk, "1.0 kB are free"),
    ("results folder", STUDY, stale_handle, "/far/results: cannot be looked at: Stale file handle"),
]


def refused_by_run(loaded: LoadedStudy, unfinished: Any, folder: StudyDir) -> list[StudyError]:
    with pytest.raises(StudyError) as caught:
        check(loaded, unfinished, folder)
    error = caught.value
    assert error.exit_code == Exit.PREFLIGHT_REFUSED
    return list(error.errors) if isinstance(error, CombinedError) else [error]


def words(point: Point) -> str:
    return f"{point.found}; {point.remedy}" if point.remedy else point.found


@pytest.mark.parametrize(("source", "text", "prepare", "told"), CASES, ids=[f"{one[0]}-{one[3]}" for one in CASES])
def test_check_refuses_what_run_refuses(source, text, prepare, told, tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(text)
    prepare(tmp_path, monkeypatch)
    loaded = load_study(tmp_path / "study.yaml")
    plan = make_plan(loaded, tmp_path / "results")
    jobs = [one.job for one in plan.jobs]
    refused = refused_by_run(loaded, jobs, plan.folder)
    points = [point for point in readiness.readiness(loaded, jobs, plan.folder) if point.state == "refused"]
    assert any(told in str(error) for error in refused), refused
    for error in refused:
        assert any(words(point).endswith(error.message) for point in points), (str(error), points)
    assert [point for point in points if point.check == source and told in words(point)]
    assert SECRET not in str(points) + str(refused)


DRAWN = "datasets: {digits: {type: datacomp, drawn: {count: 4}, fetch: {}}}"
IMAGE = STUDY + "resources: {executor: slurm, slurm: {python: /opt/python}}\n"


def an_image_has_it(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """A login node of a cluster without torch, and with a torchvision that nobody uses."""
    slurm("echo 'gpu*|up|infinite|2|gpu:2'")(tmp_path, patch)
    without("torch")(tmp_path, patch)
    broken_torchvision(tmp_path, patch)
    no_font(tmp_path, patch)


def driver_is_broken_and_unused(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho failed >&2; exit 9\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    patch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.parametrize(
    ("text", "prepare", "told"),
    [
        (IMAGE, an_image_has_it, "jobs run with /opt/python"),
        (IMAGE.replace("architecture: qwen3", "architecture: qwen99"), an_image_has_it, "qwen99 with random weights"),
        (OF_HUB + IMAGE.removeprefix(STUDY), an_image_has_it, "the machines that slurm chooses may have them"),
        (STUDY.replace("datasets: {digits: {type: digits}}", DRAWN), nothing, "digits: drawn here by `run`"),
        (STUDY, driver_is_broken_and_unused, "CUDA_VISIBLE_DEVICES hides them"),
    ],
)
def test_check_takes_what_run_takes(text, prepare, told, tmp_path, monkeypatch):
    (tmp_path / "study.yaml").write_text(text)
    prepare(tmp_path, monkeypatch)
    loaded = load_study(tmp_path / "study.yaml")
    plan = make_plan(loaded, tmp_path / "results")
    points = readiness.readiness(loaded, [one.job for one in plan.jobs], plan.folder)
    assert [point for point in points if point.state == "refused"] == []
    assert [point for point in points if told in point.found], points


def test_every_source_has_a_case_above():
    assert {source for source, *_ in CASES} == set(SOURCES)


def test_run_refuses_by_these_sources_and_by_nothing_else(tmp_path, monkeypatch):
    """A refusal that is asked for beside the table would be one that `check` does not know."""
    (tmp_path / "study.yaml").write_text(OF_HUB + f"env: {{HF_TOKEN: {SECRET}}}\nresources: {{executor: slurm}}\n")
    (tmp_path / "results").write_text("a file")
    loaded = load_study(tmp_path / "study.yaml")
    jobs = [one.job for one in make_plan(loaded, tmp_path / "results").jobs]
    folder = StudyDir(tmp_path / "results" / "tiny")
    assert len(refused_by_run(loaded, jobs, folder)) >= 3
    monkeypatch.setattr(checks, "SOURCES", {})
    check(loaded, jobs, folder)


def test_a_new_source_is_told_by_check_at_once(tmp_path, monkeypatch):
    """Also where it comes upon the second thing that is wrong while it looks."""
    (tmp_path / "study.yaml").write_text(STUDY)
    loaded, folder = load_study(tmp_path / "study.yaml"), StudyDir(tmp_path / "results" / "tiny")

    def wrong(_: object) -> Any:
        yield StudyError("first", "is wrong; mend it")
        raise StudyError("second", "cannot be looked at")

    monkeypatch.setattr(readiness, "FURTHER", {"python": lambda _: [ok("python", "3")]})
    for sources in (checks, readiness):
        monkeypatch.setattr(sources, "SOURCES", {"moon": wrong, "sun": lambda _: ()})
    told = readiness.readiness(loaded, [], folder)
    assert [(one.check, one.state, one.found, one.remedy) for one in told] == [
        ("python", "ok", "3", ""),
        ("moon", "refused", "first: is wrong", "mend it"),
        ("moon", "refused", "second: cannot be looked at", ""),
        ("sun", "ok", "nothing stands in the way", ""),
    ]
    assert len(refused_by_run(loaded, [], folder)) == 2

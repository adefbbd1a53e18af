"""`tunestudy check`: packages, folders, inputs, tokens, neighbours; each point with what mends it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.launch import check as launched
from tunestudy.launch.check import check_study
from tunestudy.launch.local import Slot
from tunestudy.launch.run import run_study
from tunestudy.preflight import folders, inputs, neighbours, packages, trackers
from tunestudy.preflight.asked import Asked
from tunestudy.preflight.hosts import Difference
from tunestudy.preflight.points import Answer, Point
from tunestudy.preflight.readiness import points_of
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import StudyDir
from tunestudy.study.hosts import Host
from tunestudy.study.load import LoadedStudy, load_study
from tunestudy.study.plan import make_plan

STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}
datasets: {digits: {type: digits}}
variants: {untrained: {stages: []}}
"""
HUB = STUDY.replace(
    '{architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}', "{model_name_or_path: org/model}"
)


def load(tmp_path: Path, text: str = STUDY) -> LoadedStudy:
    (tmp_path / "study.yaml").write_text(text)
    return load_study(tmp_path / "study.yaml")


def asked(loaded: LoadedStudy, unfinished: Sequence[Job] = ()) -> Asked:
    """What `check` asks of a study of which something is to do."""
    folder = StudyDir(loaded.path.parent / "results" / loaded.study.study)
    return Asked(loaded, unfinished, folder, starts=True, draws=True)


@pytest.fixture(autouse=True)
def no_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, and no cache, of whoever runs the tests."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_study_that_is_ready_for_people_and_for_machines(tmp_path, capsys):
    loaded = load(tmp_path)
    assert check_study(loaded, tmp_path / "results") == Exit.DONE
    out = capsys.readouterr().out
    assert out.rstrip().endswith("ready to run") and "check" in out.splitlines()[0]
    assert check_study(loaded, tmp_path / "results", as_json=True) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["ready"] and {"check", "state", "found", "remedy"} == set(told["points"][0])
    assert not (tmp_path / "results").exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.fixture
def finish(tmp_path: Path) -> Callable[[LoadedStudy], None]:
    """Leave behind what a run of a study leaves, as far as states go."""

    def leave(loaded: LoadedStudy) -> None:
        plan = make_plan(loaded, tmp_path / "results")
        for planned in plan.jobs:
            write_json(plan.folder.job(planned.job.id).result_json, {"fingerprint": planned.job.fingerprint})

    return leave


def test_a_study_that_is_done_needs_nothing_but_its_folder(finish, tmp_path, capsys):
    """Nor does `run`, which reports it: no GPUs, no cluster, no allocation, no model."""
    lost = "resources: {gpus: 64, executor: ray, ray: {address: '127.0.0.1:9'}}\n"
    finish(load(tmp_path, HUB))
    assert check_study(load(tmp_path, HUB + lost), tmp_path / "results", as_json=True) == Exit.DONE
    points = {one["check"]: one for one in json.loads(capsys.readouterr().out)["points"]}
    assert points["plan"]["found"] == "1 job, all done: `run` reports them"
    for name in ("slots", "torch build", "optional parts", "GPUs", "model", "hub", "executor", "trackers"):
        assert points[name]["state"] == "not needed", points[name]
    for resources in (lost, "resources: {gpus: 64}\n", "resources: {launcher: srun, ranks: 2}\n"):
        loaded = load(tmp_path, HUB + resources)
        assert run_study(loaded, tmp_path / "results", quiet=True, report=False) == Exit.DONE


def test_results_of_another_study_of_that_name_are_told(finish, tmp_path, capsys):
    finish(load(tmp_path))
    check_study(load(tmp_path), tmp_path / "results")
    assert "earlier results" not in capsys.readouterr().out
    check_study(load(tmp_path, STUDY.replace("qwen3", "gemma3")), tmp_path / "results", as_json=True)
    points = {one["check"]: one for one in json.loads(capsys.readouterr().out)["points"]}
    told = points["earlier results"]
    assert told["state"] == "warning" and "holds 1 job, none of them of this study" in told["found"]


def test_slots_of_a_cluster_are_those_that_run_would_have(tmp_path, monkeypatch):
    """A cluster that answers may have too few GPUs, or other packages: what `run` says of it, `check` says."""
    left = []

    class Cluster:
        def __init__(self, *_: object) -> None: ...

        @property
        def slots(self) -> list[Slot]:
            raise StudyError("resources.ranks", "no machine of the cluster has 8 GPUs; set it to 4")

        def close(self) -> None:
            left.append(self)

    monkeypatch.setattr(launched, "RayPlace", Cluster)
    (point,) = launched.slot_points(load(tmp_path, STUDY + "resources: {executor: ray}\n"))
    assert (point.check, point.state, point.remedy) == ("slots", "refused", "set it to 4") and len(left) == 1


def test_all_that_is_wrong_is_told_at_once_and_refuses(tmp_path, capsys):
    text = STUDY.replace("qwen3", "qwn3") + "resources: {executor: slurm}\nenv: {WORLD_SIZE: '2'}\n"
    (tmp_path / "results").write_text("a file")
    assert check_study(load(tmp_path, text), tmp_path / "results", as_json=True) == Exit.PREFLIGHT_REFUSED
    points = {one["check"]: one for one in json.loads(capsys.readouterr().out)["points"]}
    assert points["model"]["remedy"] == "did you mean `qwen3`?"
    assert "is a file" in points["results folder"]["found"] and points["env"]["state"] == "refused"


def test_versions_are_held_against_what_the_package_declares(monkeypatch):
    there = {"torch": "2.10.1+cu128", "transformers": "5.17.0", "peft": None}
    bounds = {"torch": "2.11", "transformers": "5.17", "peft": "0.20"}
    wanted = [packages.Requirement(name, bound, "train") for name, bound in bounds.items()]
    monkeypatch.setattr(packages, "requirements", lambda: wanted)
    monkeypatch.setattr(packages, "_version", there.get)
    *_, point = packages.package_points({"train"})
    assert point.state == "refused" and "tunestudy[train]" in point.remedy
    assert point.found == "missing: peft; too old: torch 2.10.1+cu128 (at least 2.11)"
    assert packages.numbers("2.13.0a0+git") == (2, 13) and packages.numbers("10.0") > packages.numbers("9.9")


def test_our_own_bounds_are_read_from_the_metadata():
    bounds = {one.name: one for one in packages.requirements()}
    assert bounds["torch"].extra == "train" and bounds["pydantic"].extra is None and "pytest" not in bounds


def test_flash_attention_is_only_asked_for_when_the_study_does(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert packages.attention_point(load(tmp_path).study).state == "not needed"
    asking = STUDY.replace("qwen3,", "qwen3, attn_implementation: flash_attention_2,")
    point = packages.attention_point(load(tmp_path, asking).study)
    assert point.state == "refused" and "sdpa" in point.remedy


@pytest.mark.parametrize(("free", "state"), [(50, "refused"), (5_000, "warning"), (10**6, "ok")])
def test_few_inodes(tmp_path, monkeypatch, free, state):
    stat = type("Stat", (), {"f_files": 10**7, "f_favail": free})
    monkeypatch.setattr(os, "statvfs", lambda _: stat)
    point = folders.files_point(tmp_path)
    assert point.state == state and f"{free:,}" in point.found


@pytest.mark.parametrize(
    ("line", "needed", "state"),
    [
        ("/dev/x 1000 0 0 5 0 0", 0, "ok"),
        ("/dev/x 1000 2000 3000 5 0 0", 0, "ok"),
        ("/dev/x 2500* 2000 3000 5 0 0", 0, "warning"),
        ("/dev/x 1000 2000 3000 5 0 0", 3 * 2**20, "refused"),
        ("/dev/other 1000 1 1 5 0 0", 3 * 2**20, "ok"),
        ("nonsense", 0, "ok"),
    ],
)
def test_quota(tmp_path, monkeypatch, line, needed, state):
    head = "Disk quotas for user me (uid 1):\n Filesystem blocks quota limit grace files quota limit grace"
    monkeypatch.setattr(folders, "answer_of", lambda *_, **__: Answer("said", f"{head}\n{line}\n"))
    monkeypatch.setattr(folders, "device_of", lambda _: "/dev/x")
    assert folders.quota_point(tmp_path, needed).state == state


def test_writing_is_tried_and_leaves_nothing(tmp_path, monkeypatch):
    assert folders.speed_point(tmp_path).found.endswith("to flush a small file")
    monkeypatch.setattr(folders, "SLOW_FLUSH_S", -1.0)
    assert folders.speed_point(tmp_path).state == "warning"
    assert list(tmp_path.iterdir()) == []


def test_shared_memory_of_a_container(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 60 * 2**20, "total": 64 * 2**20})
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: usage)
    assert folders.shared_memory_point(tmp_path, several=True).state == "warning"
    assert folders.shared_memory_point(tmp_path, several=False).state == "not needed"


def test_architectures_are_known_without_importing_transformers():
    code = "import sys; from tunestudy.preflight.inputs import model_types; t = model_types()"
    code += "; assert {'qwen3', 'internvl', 'gemma3'} <= t, t; assert 'torch' not in sys.modules"
    code += "; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("files", "state", "told"),
    [
        ({}, "refused", "no config.json; it holds nothing"),
        ({"config.json": "{"}, "refused", "cannot be read"),
        ({"config.json": '{"model_type": "qwen3"}'}, "refused", "lacks model.safetensors"),
        ({"config.json": '{"model_type": "qwn3"}', "model.safetensors": ""}, "refused", "is a `qwn3`"),
        ({"config.json": '{"model_type": "qwen3"}', "model.safetensors": ""}, "ok", "all there"),
        (
            {
                "config.json": '{"model_type": "qwen3"}',
                "model.safetensors.index.json": '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
                "1.safetensors": "",
            },
            "refused",
            "lacks 2.safetensors",
        ),
    ],
)
def test_a_model_in_a_folder(tmp_path, files, state, told):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    (point,) = inputs.model_points(asked(load(tmp_path, HUB.replace("org/model", "./model"))))
    assert point.state == state and told in point.found


def test_what_is_on_the_hub_is_in_its_cache_or_has_to_be_fetched(tmp_path, monkeypatch):
    loaded = load(tmp_path, HUB)
    points = {point.check: point for point in inputs.hub_points(asked(loaded))}
    assert points["hub"].state == "refused" and "HF_HUB_OFFLINE" in points["hub"].found
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        points = {point.check: point for point in inputs.hub_points(asked(loaded))}
    assert points["hub"].state == "refused" and "cannot be reached" in points["hub"].found
    folder = tmp_path / "hf" / "hub" / "models--org--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text("{}")
    points = {point.check: point for point in inputs.hub_points(asked(loaded))}
    assert points["hub cache"].state == "ok" and points["pinned"].state == "warning" and "hub" not in points


def test_a_study_that_pushes_wants_a_token(tmp_path):
    stages = "stages: {s: {data: d, learning_rate: 1.0e-3, push_to_hub: true}}\nvariants: {v: {stages: [s]}}\n"
    head = 'study: s\nseeds: [1]\nmodel: {architecture: qwen3, tokenizer: {type: characters, alphabet: "01"}}\n'
    absent = inputs.token_point(load(tmp_path, head + "datasets: {d: {type: digits}}\n" + stages))
    assert absent.state == "warning" and "wait for `tunestudy push`" in absent.found


def test_tokens_are_told_and_never_shown(tmp_path, monkeypatch):
    loaded, secret = load(tmp_path, HUB), "hf_" + "z" * 30
    absent = inputs.token_point(loaded)
    assert absent.state == "warning" and "hf auth login" in absent.remedy
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(secret)
    assert inputs.hub_token_source() == "`hf auth login`"
    monkeypatch.setenv("HF_TOKEN", secret)
    told = str(inputs.token_point(loaded))
    assert "$HF_TOKEN" in told and secret not in told
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {'k' * 40}\n")
    assert trackers.wandb_token_source() == "~/.netrc"
    (tmp_path / "netrc").write_text("machine\nwhat is this")
    assert trackers.wandb_token_source() is None


def test_the_host_whose_clock_is_two_hours_off_is_named(tmp_path, monkeypatch):
    hosts = {"h1": {"ahead_s": 0.4}, "h2": {"ahead_s": -7200.0}}
    point = neighbours.clock_point(hosts, StudyDir(tmp_path))
    assert point.state == "warning" and "h2 is 2.0 h behind" in point.found and "h1" not in point.found
    assert "nothing here relies on clocks" in point.found
    monkeypatch.setattr(time, "time", lambda: tmp_path.stat().st_mtime + 7200)
    alone = neighbours.clock_point({"h2": {"ahead_s": -7200.0}}, StudyDir(tmp_path))
    assert "this machine" in alone.found and "h2" not in alone.found, "the file system's time decides"


def test_a_launcher_on_a_machine_whose_clock_is_off(tmp_path, monkeypatch):
    study = StudyDir(tmp_path)
    lease = study.launchers / "far-1-2"
    lease.mkdir(parents=True)
    record = {"attempt": 1, "host": "far", "pid": 1, "machine": "other/1/0", "started": "x"}
    (lease / "000001.json").write_text(json.dumps(record))
    study.events.mkdir()
    (study.events / "far-1-2.jsonl").write_text(
        json.dumps({"t": time.time(), "event": "clock_differs", "ahead_s": 7200.2}) + "\n"
    )
    point = neighbours.clock_point({}, study)
    assert point.state == "warning" and "far is 2.0 h ahead" in point.found
    assert neighbours.launcher_point(study).state == "warning"


def test_a_port_that_is_taken_on_the_first_host():
    resources = Resources(hostfile="hosts.txt", ranks=2)
    told = [(Host("h1", 1), {"listening": [22, 29500]}), (Host("h2", 1), {"listening": []})]
    assert neighbours.rendezvous_point(resources, told).state == "refused"
    assert neighbours.rendezvous_point(resources, told[::-1]).state == "ok"
    assert neighbours.rendezvous_point(resources, [(Host("h1", 1), Difference("reach", "x"))]).state == "warning"
    assert neighbours.rendezvous_point(Resources(), []).state == "not needed"


def test_the_last_measurement_of_the_network(tmp_path):
    study, spread = StudyDir(tmp_path), Resources(hostfile="hosts.txt", ranks=2)
    assert neighbours.network_point(study, Resources()).state == "not needed"
    assert neighbours.network_point(study, spread).state == "warning"
    (tmp_path / "netcheck").mkdir()
    found = {"hosts": ["h1", "h2"], "pairs": [{"bytes_per_s": 1.2e9}]}
    (tmp_path / "netcheck" / "netcheck.json").write_text(json.dumps(found))
    point = neighbours.network_point(study, spread)
    assert point.state == "ok" and "9.60 Gbit/s" in point.found
    assert neighbours.network_point(study, Resources(hostfile="hosts.txt", ranks=4)).state == "warning"


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\nprintf 'gpu*|up|30:00|2|gpu:2\\ncpu|down|infinite|2|(null)\\n'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "sinfo"


@pytest.fixture
def executor(tmp_path: Path) -> Callable[..., Point]:
    def ask(**settings: Any) -> Point:
        loaded = load(tmp_path)
        study = loaded.study.model_copy(update={"resources": Resources.model_validate(settings)})
        (point,) = points_of("executor", asked(replace(loaded, study=study)))
        return point

    return ask


@pytest.mark.parametrize(
    ("settings", "state", "found"),
    [
        ({}, "ok", "partition gpu is up: 2 nodes, jobs of 0.5 h at most"),
        ({"partition": "cpu"}, "warning", "partition cpu is not up"),
        ({"partition": "gpus"}, "refused", "there is no partition gpus"),
        ({"time": "2h"}, "refused", "2 h is above the 0.5 h of partition gpu"),
        ({"nodes": 3, "mode": "allocation"}, "refused", "3 nodes are more than the 2"),
    ],
)
def test_check_asks_slurm_what_run_asks(executor, sinfo, settings, state, found):
    point = executor(executor="slurm", slurm=settings)
    assert point.state == state and found in point.found


def test_no_slurm_and_no_controller(executor, sinfo, monkeypatch, tmp_path):
    sinfo.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert "Unable to contact" in executor(executor="slurm").found
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "there is no sbatch" in executor(executor="slurm").found


def test_ray_that_is_there_and_not(executor, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert "no cluster runs" in executor(executor="ray").found
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
        assert executor(executor="ray").state == "refused"
        head.listen()
        assert executor(executor="ray").state == "ok"

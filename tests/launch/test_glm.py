"""Seed 004 in small, on two hosts of the lab: baseline, LoRA, both kinds of checkpoints, a kill, exact resume."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import LabHosts, lab_hosts

STUDIES = Path(__file__).parents[2] / "studies"
CLOCKS = {"tokens_per_s", "gpu_memory_mb"}


def run(lab: LabHosts, folder: Path, results: str) -> "subprocess.Popen[str]":
    words = ["run", "glm.yaml", "--tiny", "--only", "lora", "--results", results]
    command = lab.command(1, [sys.executable, "-m", "tunestudy.cli", *words], folder)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def job(folder: Path, results: str) -> Path:
    return next((folder / results / "glm_air_fsdp-tiny" / "jobs").glob("adapt-*"))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.lab
def test_two_hosts_train_the_mixture_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    text = (STUDIES / "glm_air_fsdp.yaml").read_text(encoding="utf-8")
    local = "resources: {hostfile: null, ranks: 2, timeout_s: 120}"
    assert local in text
    (folder / "glm.yaml").write_text(text.replace(local, "resources: {hostfile: two.txt, timeout_s: 60}"))
    (folder / "two.txt").write_text("h1 slots=1\nh2 slots=1\n")
    shutil.copy(STUDIES / "glm_air_hosts.txt", folder)
    with lab_hosts(tmp_path / "net", 2) as lab:
        quiet = run(lab, folder, "quiet")
        output = quiet.communicate(timeout=300)[0]
        assert quiet.returncode == 0, output
        hit = run(lab, folder, "hit")
        full = None
        while full is None and hit.poll() is None:
            full = next((folder / "hit").glob("glm*/jobs/adapt-*/checkpoint-72/MANIFEST.json"), None)
            time.sleep(0.05)
        lab.run(2, ["pkill", "-9", "-f", "tunestudy.worker"])
        output = hit.communicate(timeout=300)[0]
        assert hit.returncode == 0, output  # a lost rank is no user's mistake: the job was started again by itself
    one, other = job(folder, "quiet"), job(folder, "hit")
    assert json.loads((other / "result.json").read_text())["resumed_from"] == [72], output
    assert json.loads((one / "result.json").read_text())["world_size"] == 2
    for table in ("loss_log.csv", "eval_log.csv", "expert_log.csv"):
        assert rows(one / table) == rows(other / table)
    weights = [(path / "model" / "adapter_model.safetensors").read_bytes() for path in (one, other)]
    assert weights[0] == weights[1]
    evaluations = rows(one / "eval_log.csv")
    assert evaluations[0]["step"] == "0" and float(evaluations[-1]["eval_loss"]) < float(evaluations[0]["eval_loss"])
    assert len({row["target_tokens"] for row in evaluations}) == 1, "the same 200 records every time"

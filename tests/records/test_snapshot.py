"""What is recorded of a machine, and that no token gets in."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tunestudy.records.snapshot import gpus, snapshot

TOKEN = "hf_" + "a" * 30


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    (tmp_path / "study.yaml").write_text("study: s\n")
    git("init", "-b", "trunk")
    git("add", ".")
    git("commit", "-m", "first")
    git("remote", "add", "origin", f"https://me:{TOKEN}@example.org/team/study.git")
    return tmp_path


def test_facts(repository):
    facts = snapshot(repository)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["python"] == platform.python_version() and facts["memory_bytes"] > 2**20
    assert facts["cpu"]["threads_usable"] >= 1 and facts["disk_free_bytes"] > 0
    assert facts["packages"]["numpy"] and facts["packages"]["tunestudy"]
    assert facts["git"]["branch"] == "trunk" and len(facts["git"]["commit"]) == 40 and facts["git"]["dirty"] is False


def test_dirty_tree_and_no_repository(repository, tmp_path_factory):
    (repository / "study.yaml").write_text("study: other\n")
    assert snapshot(repository)["git"]["dirty"] is True
    assert snapshot(tmp_path_factory.mktemp("plain"))["git"] is None


def test_tokens_are_hidden_wherever_they_stand(repository, monkeypatch):
    secret = "correct horse " + "battery"
    monkeypatch.setattr(platform, "node", lambda: f"node-{TOKEN}")
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("HF_HOME", f"/cache/{TOKEN}")
    monkeypatch.setenv("SLURM_JOB_COMMENT", f"uses {secret}")
    monkeypatch.setenv("SLURM_JWT_TOKEN", "x" * 20)
    facts = snapshot(repository)
    text = json.dumps(facts)
    assert TOKEN not in text and secret not in text and "me:" not in text and "x" * 20 not in text
    assert facts["host"] == "node-[hidden]" and facts["env"]["HF_HOME"] == "/cache/[hidden]"
    assert facts["git"]["remote"] == "https://[hidden]@example.org/team/study.git"
    assert "HF_TOKEN" not in facts["env"] and "SLURM_JWT_TOKEN" not in facts["env"]


def test_gpus_as_nvidia_smi_tells(tmp_path, monkeypatch):
    answer = "0, GPU-1234, NVIDIA H200, 143771, 570.86.15\\n1, GPU-5678, NVIDIA H200, [N/A], 570.86.15\\n"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{answer}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    first, second = gpus()
    assert (first["index"], first["uuid"], first["name"]) == (0, "GPU-1234", "NVIDIA H200")
    assert first["memory_bytes"] == 143771 * 2**20 and second["memory_bytes"] is None


def test_broken_driver_means_no_gpus(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'has failed because it could not communicate with the driver'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert gpus() == []


def test_imports_nothing_it_lists():
    code = "from tunestudy.records.snapshot import *; import sys; snapshot(Path('.')); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

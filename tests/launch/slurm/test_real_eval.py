"""`eval STUDY` by a real SLURM, with real workers: a benchmark that is added after the training, and none trains."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from digit_reader import MODEL

from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir

NODES = {"nodes": 1}
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("this_cluster")]

STUDY = (
    """\
study: scored
seeds: [1]
resources: {executor: slurm, slurm: {cpus_per_task: 2, time: 10m}}
"""
    + MODEL
    + """\
datasets: {digits: {type: digits, trim: true, held_out: 0.2, limit: 200}}
benchmarks:
  first: {type: exact_match, dataset: digits@held_out, max_new_tokens: 1}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 20, max_length: 80}
stages: {train: , adapt: {adapter: {lora_r: 4}}}
variants: {one: {stages: [train]}, two: {stages: [train, adapt]}}
"""
)
ADDED = "  second: {type: exact_match, dataset: digits, max_new_tokens: 1, limit: 40}\n"


def tunestudy(folder: Path, *words: str) -> None:
    command = [Path(sys.executable).with_name("tunestudy"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def submissions(study: StudyDir) -> list[dict[str, Any]]:
    return [event for event in read_events(study.events) if event["event"] == "slurm_submitted"]


def weights(study: StudyDir) -> dict[str, tuple[str, int]]:
    files = sorted(study.jobs.glob("*/model/*.safetensors"))
    return {str(file): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns) for file in files}


def answers(study: StudyDir) -> dict[str, bytes]:
    """What each job answered to the added benchmark."""
    return {file.parents[1].name: file.read_bytes() for file in study.jobs.glob("*/eval/second.predictions.jsonl")}


def test_a_benchmark_that_is_added_is_scored_in_submissions_as_here(tmp_path: Path):
    file, study = tmp_path / "study.yaml", StudyDir(tmp_path / "results" / "scored")
    file.write_text(STUDY)
    tunestudy(tmp_path, "run", "study.yaml")
    trained = weights(study)
    assert len(trained) == len(submissions(study)) == 2
    file.write_text(STUDY.replace("defaults:", f"{ADDED}defaults:"))
    tunestudy(tmp_path, "eval", "study.yaml")
    by_slurm = answers(study)
    assert len(by_slurm) == 2 and len(submissions(study)) == 4
    for old in study.jobs.glob("*/eval/second.*"):
        old.unlink()
    tunestudy(tmp_path, "eval", "study.yaml", "resources.executor=local")
    assert answers(study) == by_slurm and weights(study) == trained

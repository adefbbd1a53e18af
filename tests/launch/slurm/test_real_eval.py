"""`eval STUDY` by a real SLURM: a benchmark that is added after the training is scored in submissions, and none trains.

    python tests/lab/slurm_eval.py

Stands up a SLURM here (as root, with slurm-wlm). Real workers, a small random model; takes one to two minutes. Exit
code 1: something was trained again, or the answers are not those that this machine finds by itself.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from slurm import slurm

STUDY = """\
study: scored
seeds: [1]
resources: {executor: slurm, slurm: {cpus_per_task: 2, time: 10m}}
model:
  architecture: qwen3
  config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1,
           head_dim: 16, max_position_embeddings: 128, tie_word_embeddings: true}
  tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}
datasets: {digits: {type: digits, trim: true, held_out: 0.2, limit: 200}}
benchmarks:
  first: {type: exact_match, dataset: digits@held_out, max_new_tokens: 1}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 60, max_length: 80}
stages: {train: , adapt: {adapter: {lora_r: 4}}}
variants: {one: {stages: [train]}, two: {stages: [train, adapt]}}
"""
ADDED = "  second: {type: exact_match, dataset: digits, max_new_tokens: 1, limit: 40}\n"


def tunestudy(folder: Path, *words: str) -> str:
    command = [Path(sys.executable).with_name("tunestudy"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(f"$ tunestudy {' '.join(words)}\n{done.stdout}{done.stderr}", flush=True)
    assert done.returncode == 0, done.returncode
    return done.stdout


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    files = folder.glob("results/scored/events/*.jsonl")
    told = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [event for event in told if event["event"] == name]


def weights(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("results/scored/jobs/*/model/*.safetensors"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() + str(file.stat().st_mtime_ns) for file in files}


def answers(folder: Path) -> dict[str, str]:
    """What each job answered to the added benchmark, as a digest."""
    files = sorted(folder.glob("results/scored/jobs/*/eval/second.predictions.jsonl"))
    return {file.parents[1].name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def main() -> int:
    with tempfile.TemporaryDirectory() as path, slurm(Path(path) / "slurm", nodes=1) as environment:
        os.environ.update({name: environment[name] for name in ("PATH", "SLURM_CONF")})
        folder = Path(path) / "work"
        folder.mkdir()
        (folder / "study.yaml").write_text(STUDY)
        tunestudy(folder, "run", "study.yaml")
        trained, before = weights(folder), len(events(folder, "slurm_submitted"))
        (folder / "study.yaml").write_text(STUDY.replace("defaults:", f"{ADDED}defaults:"))
        tunestudy(folder, "eval", "study.yaml")
        sent = events(folder, "slurm_submitted")[before:]
        by_slurm = answers(folder)
        for file in folder.glob("results/scored/jobs/*/eval/second.*"):
            file.unlink()
        tunestudy(folder, "eval", "study.yaml", "resources.executor=local")
        here, untouched = answers(folder), weights(folder) == trained
    print(f"{before} submissions trained, {len(sent)} scored; weights untouched: {untouched}")
    print(f"answers by SLURM {by_slurm}, here {here}")
    return int(not (untouched and by_slurm == here and len(here) == 2 and sent))


if __name__ == "__main__":
    sys.exit(main())

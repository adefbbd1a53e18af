"""A small study whose jobs spread over two hosts, and ways to see how far it is."""

import json
import subprocess
import time
from itertools import count
from pathlib import Path

from digit_reader import MODEL

STUDY = (
    """\
study: spread
seeds: [1]
resources: {hostfile: hosts.txt, rendezvous_port: PORT, max_retries: 0, host_silence_s: 12}
"""
    + MODEL
    + """\
datasets: {digits: {type: digits, trim: true, held_out: 0.2, limit: 200}}
benchmarks: {digits: {type: exact_match, dataset: digits@held_out, max_new_tokens: 1}}
env: {COLOUR: green}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: STEPS, max_length: 80, engine: ENGINE,
           full_save_steps: 10, adapter: {lora_r: 4}}
stages: {adapt: }
variants: {lora: {stages: [adapt]}}
"""
)


PORTS = count(29600)
"""A port of its own for every study: the one before may still be closing its own."""


def written(folder: Path, *, steps: int, engine: str = "ddp", hosts: str = "h1 slots=1\nh2 slots=1\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "hosts.txt").write_text(hosts)
    study = STUDY.replace("STEPS", str(steps)).replace("ENGINE", engine).replace("PORT", str(next(PORTS)))
    (folder / "study.yaml").write_text(study)
    return folder


def job_of(folder: Path) -> Path:
    return next((folder / "results" / "spread" / "jobs").glob("adapt-*"))


def wait_for_step(folder: Path, step: int, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None:
        progress = next((folder / "results").glob("spread/jobs/adapt-*/progress.json"), None)
        told = json.loads(progress.read_text()) if progress else {}
        if told.get("phase") == "train" and (told.get("step") or 0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(process.communicate()[0])

"""`tunestudy fetch` from the command line, killed on the way, and the study that then runs without a network."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault
from shell import succeed

from tunestudy.records.atomic import read_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.locked import read_lock

STUDY = """\
study: away
seeds: [1]
model: {model_name_or_path: org/tiny}
datasets:
  sums: {name: org/sums, subset: main, held_out: 0.2}
benchmarks:
  right: {type: exact_match, dataset: sums@held_out, max_new_tokens: 1}
  arc: {type: lm_eval, tasks: arc_easy, limit: 2}
defaults: {learning_rate: 1e-3, effective_batch_size: 4, max_steps: 2, data: sums}
stages: {learn: }
variants: {one: {stages: [learn]}}
"""
CARD = """---
configs:
- {config_name: other, data_files: [{split: train, path: other/train-*}]}
- {config_name: main, data_files: [{split: train, path: main/train-*}, {split: test, path: main/test-*}]}
---
"""
ARC_CARD = """---
configs:
- {config_name: ARC-Challenge, data_files: [{split: test, path: ARC-Challenge/test-*}]}
- config_name: ARC-Easy
  data_files:
  - {split: train, path: ARC-Easy/train-*}
  - {split: validation, path: ARC-Easy/validation-*}
  - {split: test, path: ARC-Easy/test-*}
---
"""


def model_files(folder: Path) -> dict[str, bytes]:
    """A Qwen3 of 19 MB, so that its weights count as a large file."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from tunestudy.config.model import CharacterTokenizer
    from tunestudy.models.tokenizer import character_tokenizer

    tokenizer = character_tokenizer(CharacterTokenizer(alphabet="0123456789="))
    sizes = {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 3, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **sizes, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(count: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digits = [str(number % 10) for number in range(count)]
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": [f"{d}=" for d in digits], "completion": digits}), out)
    return out.getvalue()


def questions(count: int) -> bytes:
    """As ARC has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    choices = {"text": ["1", "2"], "label": ["A", "B"]}
    table = {"question": [f"{n}=?" for n in range(count)], "choices": [choices] * count, "answerKey": ["A"] * count}
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [str(n) for n in range(count)], **table}), out)
    return out.getvalue()


@pytest.mark.lab
def test_fetched_through_a_kill_and_run_without_a_network(tmp_path: Path) -> None:
    hub = FakeHub()
    hub.start()
    hub.commit("model", "org/tiny", model_files(tmp_path / "model"))
    files = {"main/train-0.parquet": rows(40), "main/test-0.parquet": rows(5), "other/train-0.parquet": rows(5)}
    hub.commit("dataset", "org/sums", {"README.md": CARD.encode(), **files})
    splits = {f"ARC-Easy/{split}-0.parquet": questions(4) for split in ("train", "validation", "test")}
    hub.commit("dataset", "allenai/ai2_arc", {"README.md": ARC_CARD.encode(), **splits})
    (tmp_path / "study.yaml").write_text(STUDY)
    places = ["study.yaml", "--results", "results"]
    command = [sys.executable, "-m", "tunestudy.cli"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    there = {"env": {**kept, **hub.environment(tmp_path / "hf")}, "cwd": tmp_path}

    foreseen = succeed([*command, "fetch", *places, "--dry-run"], **there)
    assert "nothing was fetched, nothing was locked" in foreseen and not (tmp_path / "away.lock").exists()

    hub.faults.append(Fault("GET /org/tiny/resolve", wait_s=0.01, times=100))  # 19 MB in three seconds
    first = subprocess.Popen([*command, "fetch", *places], **there, start_new_session=True)
    deadline = time.monotonic() + 60
    while hub.sent["model.safetensors"] < 13_000_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = [int(pid) for pid in children_of(first.pid)]
    for pid in (*killed, first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait(30)
    assert (tmp_path / "away.lock").exists(), "the commits are known before the first file"
    hub.faults.clear()
    before = hub.sent["model.safetensors"]
    told = succeed([*command, "fetch", *places], **there)
    lock = read_lock(tmp_path / "away.lock")
    items = {item.id: item for item in lock.items}
    size = items["org/tiny"].files["model.safetensors"].size
    assert hub.sent["model.safetensors"] - before < size - 9_000_000, f"the client writes 10 MB at a time\n{told}"
    assert "away.lock stays" in told and read_lock(StudyDir(tmp_path / "results" / "away").lock) == lock
    hub.stop()

    without = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    succeed(
        [*without, *command, "run", *places, "--quiet"], env={**kept, "HF_HOME": str(tmp_path / "hf")}, cwd=tmp_path
    )
    (job,) = StudyDir(tmp_path / "results" / "away").jobs.iterdir()
    told_job = read_json(job / "job.json")
    assert told_job["offline"] and told_job["model"]["revision"] == items["org/tiny"].commit
    assert read_json(job / "eval" / "right.json")["n"] > 0
    assert read_json(job / "eval" / "arc.json")["n"] == 2, "a task by name, whose data the harness alone knows"
    assert set(items["allenai/ai2_arc"].files) == {*splits, "README.md"}


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

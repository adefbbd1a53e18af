"""A tiny job on disk, of a real architecture, and helpers to run it and to read what it left.

Used by tests/train and by benchmarks: put tests/lab on sys.path.
"""

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch

from tunestudy.config.job import Job
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.stop import StopRequest
from tunestudy.train.stage import run_stage
from tunestudy.train.world import World

torch.set_num_threads(1)

ALPHABET = "abcdefghij =?"
CLOCKS = {"tokens_per_s"}
"""Columns that depend on the clock."""

ADAPTER = {"type": "lora", "lora_r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def records(count: int, seed: int) -> str:
    """Prompts of letters with their reversal as completion, of ragged lengths."""
    letters = random.Random(seed)
    words = ("".join(letters.choices("abcdefghij", k=letters.randint(2, 9))) for _ in range(count))
    rows = [
        {"id": f"{seed}-{i}", "prompt": f"{word} ? ", "completion": f"= {word[::-1]}"} for i, word in enumerate(words)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def with_pictures(rows: str, folder: Path) -> str:
    """The records with none, one or two images of their own, and of different shapes."""
    from tinyeyes import picture

    made = []
    for number, line in enumerate(rows.splitlines()):
        row = json.loads(line)
        names = [f"{row['id']}-{i}.png" for i in range((1, 0, 2, 1)[number % 4])]
        for i, name in enumerate(names):
            (folder / name).write_bytes(picture(number * 10 + i, [(28, 28), (56, 28), (30, 44)][(number + i) % 3]))
        made.append(json.dumps({**row, "images": names}) + "\n")
    return "".join(made)


def tiny_model(**config: Any) -> dict[str, Any]:
    """Qwen3 with a few thousand parameters, random weights."""
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    return {
        "architecture": "qwen3",
        "config": {**shape, **config},
        "tokenizer": {"type": "characters", "alphabet": ALPHABET},
    }


def moe_model(**config: Any) -> dict[str, Any]:
    """GLM's mixture of experts, fused, as small as that."""
    experts = {
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "initializer_range": 0.1,
    }
    return {**tiny_model(**{**experts, **config}), "architecture": "glm4_moe"}


def make_job(
    root: Path,
    name: str = "adapt",
    *,
    seed: int = 7,
    two_sources: bool = False,
    num_records: int = 40,
    pictured: bool = False,
    model: Any = None,
    after: JobDir | None = None,
    **settings: Any,
) -> JobDir:
    """Write data and a job directory below `root`; keyword arguments are settings of the stage.

    `after` is the job that its stage starts from. `pictured`: most records have images, as files beside the data.
    """
    names = ["first", "second"] if two_sources else ["first"]
    for number, source in enumerate(names):
        text = records(num_records, number)
        (root / f"{source}.jsonl").write_text(with_pictures(text, root) if pictured else text, encoding="utf-8")
    stage = {
        "data": names,
        "max_length": 32,
        "learning_rate": 3e-3,
        "effective_batch_size": 8,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_steps": 3,
        "full_save_steps": 3,
        **settings,
    }
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    job = Job(
        id=f"{name}-{fingerprint[:12]}",
        stage=name,
        fingerprint=fingerprint,
        seed=seed,
        variants=("v",),
        parents=(after.root.name,) if after else (),
        model=model or tiny_model(),
        settings=stage,
        datasets={n: {"type": "file", "path": f"{n}.jsonl", "held_out": 0.2} for n in names},
        base_dir="../../../..",
    )
    folder = StudyDir(root / "results" / "study").job(job.id)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.job_json.write_text(job.model_dump_json(), encoding="utf-8")
    return folder


def run(folder: JobDir, *, world: World | None = None, stop: StopRequest | None = None) -> bool:
    """Run a job directory's stage in this process."""
    job = Job.model_validate_json(folder.job_json.read_text(encoding="utf-8"))
    return run_stage(job, folder, world or World(), StopRequest() if stop is None else stop)


def rows_of(path: Path) -> list[dict[str, str]]:
    """A table's rows without what depends on the clock."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k not in CLOCKS} for row in csv.DictReader(file)]


def facts_of(folder: JobDir) -> dict[str, Any]:
    """Everything a finished job left that must not depend on the clock or on kills: logs, history, weights."""
    history = json.loads(folder.training_history.read_text(encoding="utf-8"))
    result = json.loads(folder.result_json.read_text(encoding="utf-8"))
    for clock in (
        "started_at",
        "finished_at",
        "duration_s",
        "train_s",
        "eval_s",
        "save_s",
        "peak_memory_mb",
        "resumed_from",
    ):
        result.pop(clock)
    history.pop("epoch_time")
    logs = (folder.loss_log, folder.eval_log, folder.gradient_log, folder.sparsity_log)
    tables = {p.name: rows_of(p) for p in logs if p.is_file()}
    weights = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.model.rglob("*.safetensors"))
    }
    return {"history": history, "result": result, "weights": weights, **tables}

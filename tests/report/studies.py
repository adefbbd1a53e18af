"""Results folders made in code: plausible numbers from a seeded generator, in the files that jobs write."""

import csv
import hashlib
import json
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestudy.config.study import Study
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.lease import Lease

STARTED = 1_790_000_000.0
ROWS = 240
HELD: list[Lease] = []
"""Of jobs that are to look running, for as long as this process lives."""
RANDOM_MODEL = {
    "architecture": "qwen3",
    "config": {"hidden_size": 64},
    "tokenizer": {"type": "characters", "alphabet": "0123456789="},
}


@dataclass
class Recipe:
    """What the made study looks like."""

    name: str = "digits-rotation"
    description: str = (
        "Does a model that reads upright digits learn to read them rotated, and what does LoRA give away?"
    )
    seeds: tuple[int, ...] = (1, 2, 3)
    accuracy: dict[str, float] = field(
        default_factory=lambda: {"untrained": 0.094, "full": 0.948, "lora_r4": 0.902, "lora_r16": 0.936}
    )
    """Variants and the accuracy they land near; the first is the baseline."""
    descriptions: dict[str, str] = field(default_factory=lambda: {"untrained": "the base stage alone"})
    failed: tuple[tuple[str, int], ...] = ()
    """Trials whose last stage failed."""
    pending: tuple[tuple[str, int], ...] = ()
    running: tuple[tuple[str, int], ...] = ()
    unscored: tuple[tuple[str, int], ...] = ()
    """Trained, but not evaluated."""
    retried: tuple[tuple[str, int], ...] = ()
    overfits: tuple[str, ...] = ()
    overlap: int = 0
    host: str = "bench-01"
    remote: str = "https://example.org/lab/digits.git"
    message: str = "CUDA out of memory. Tried to allocate 1.2 GiB"
    token_factor: dict[str, float] = field(default_factory=dict)
    benchmarks: tuple[str, ...] = ("digits",)
    report: dict[str, Any] = field(default_factory=dict)
    gated: dict[str, float] = field(default_factory=dict)
    """Variants with gates, and the share of them that ends at zero."""
    expected_s: float | None = None
    """What every job was expected to take, apart from those of variants in `unforeseen`."""
    unforeseen: tuple[str, ...] = ()
    gpu: bool = True
    flat: bool = False
    """The first variant too has the second stage, as in a study that compares adapters alone."""
    pretrained_baseline: bool = False
    """The first variant is a pretrained model without stages, scored once for all seeds."""


def make_study(results: Path, recipe: Recipe | None = None) -> StudyDir:
    """Write a results folder as `recipe` says and return it."""
    recipe = recipe or Recipe()
    study_dir = StudyDir(results / "study")
    study = _study(recipe)
    study_dir.root.mkdir(parents=True)
    _json(study_dir.resolved_yaml, study.model_dump(mode="json"))  # JSON is YAML, and written in no time
    study_dir.study_yaml.write_text(f"study: {recipe.name}\nseeds: {list(recipe.seeds)}\n", encoding="utf-8")
    jobs = _jobs(study, recipe)
    for job in jobs:
        _write_job(study_dir.job(job["id"]), job, recipe)
    _write_plan(study_dir, jobs, recipe)
    _write_events(study_dir, jobs, recipe)
    if recipe.expected_s:
        told = {"train_s": recipe.expected_s, "evidence": "timed steps", "t": STARTED - 60}
        _json(study_dir.estimates, {job["id"]: told for job in jobs if job["_of"] not in recipe.unforeseen})
    return study_dir


def _study(recipe: Recipe) -> Study:
    base = {"data": "upright", "learning_rate": 3e-3, "max_steps": 300, "effective_batch_size": 32}
    adapt = {"data": "rotated", "learning_rate": 3e-3, "max_steps": 200, "effective_batch_size": 32}
    variants: dict[str, Any] = {}
    for place, name in enumerate(recipe.accuracy):
        stages: dict[str, Any] = {} if recipe.pretrained_baseline else {"base": base}
        if place or recipe.flat:
            adapter: dict[str, Any] | None = (
                {"type": "lora", "lora_r": 16 if recipe.flat else 4 * 2**place} if "lora" in name else None
            )
            if name == "dora":
                adapter = {"type": "dora", "lora_r": 16}
            if name in recipe.gated:
                kind = name.partition("_")[0]
                adapter = {"type": kind, "lora_r": 16, "target_sparsity": recipe.gated[name], "sparse_lambda": 0.3}
            stages["adapt"] = {**adapt, "adapter": adapter, "learning_rate": 1e-2 if adapter else 3e-3}
        variants[name] = {"stages": stages, "description": recipe.descriptions.get(name, "")}
    return Study.model_validate(
        {
            "study": recipe.name,
            "description": recipe.description,
            "seeds": recipe.seeds,
            "model": {"model_name_or_path": "lab/tiny"} if recipe.pretrained_baseline else RANDOM_MODEL,
            "datasets": {
                "upright": {"type": "digits", "held_out": 0.2},
                "rotated": {"type": "digits", "rotate": 90, "held_out": 0.2},
            },
            "benchmarks": {name: {"type": "exact_match", "dataset": "rotated@held_out"} for name in recipe.benchmarks},
            "variants": variants,
            "report": {"baseline": next(iter(recipe.accuracy)), **recipe.report},
        }
    )


def _fingerprint(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _jobs(study: Study, recipe: Recipe) -> list[dict[str, Any]]:
    """Job records: the shared base stage once per seed, then one `adapt` job per variant and seed."""
    first, *others = recipe.accuracy
    others = [first, *others] if recipe.flat else others
    jobs = []
    if recipe.pretrained_baseline:
        jobs.append(_job(study, recipe, "base_model", first, (first,), recipe.seeds[0], _fingerprint("model"), ()))
    for seed in recipe.seeds:
        parents: tuple[str, ...] = ()
        if not recipe.pretrained_baseline:
            base = _fingerprint("base", seed)
            jobs.append(_job(study, recipe, "base", first, tuple(recipe.accuracy), seed, base, ()))
            parents = (f"base-{base[:12]}",)
        marks = {name: _fingerprint("adapt", name, seed) for name in others}
        jobs += [_job(study, recipe, "adapt", name, (name,), seed, marks[name], parents) for name in others]
    return jobs


def _job(
    study: Study, recipe: Recipe, stage: str, of: str, variants: tuple[str, ...], seed: int, fingerprint: str,
    parents: tuple[str, ...],
) -> dict[str, Any]:  # fmt: skip
    stages = study.variants[of].stages
    settings = stages[stage].model_dump(mode="json") if stage in stages else None
    return {
        "id": f"{stage}-{fingerprint[:12]}",
        "stage": stage,
        "fingerprint": fingerprint,
        "seed": seed,
        "variants": list(variants),
        "parents": list(parents),
        "model": study.model.model_dump(mode="json"),
        "settings": settings,
        "datasets": {},
        "evaluations": {
            name: {
                "benchmark": study.benchmarks[name].model_dump(mode="json"),
                "fingerprint": _fingerprint("benchmark", name),
            }
            for name in recipe.benchmarks
        },
        "base_dir": "../../..",
        "keep_checkpoints": [],
        "_of": of,
    }


def _write_job(folder: JobDir, job: dict[str, Any], recipe: Recipe) -> None:
    of, seed = job["_of"], job["seed"]
    trial = (of, seed)
    if trial in recipe.pending:
        return
    folder.root.mkdir(parents=True)
    _json(folder.job_json, {key: value for key, value in job.items() if not key.startswith("_")})
    _json(folder.env_json, _environment(recipe))
    random_ = random.Random(f"{of}/{job['stage']}/{seed}")
    if job["settings"] is None:
        _json(folder.result_json, {"fingerprint": job["fingerprint"], "status": "done", "model_kind": "base"})
        _score_all(folder, job, recipe, random_)
        return
    steps = job["settings"]["max_steps"]
    reached = int(steps * 0.45) if trial in recipe.failed + recipe.running else steps
    train, evaluations = _curves(of, job["stage"], steps, reached, random_, overfits=of in recipe.overfits)
    _csv(folder.loss_log, train)
    _csv(folder.eval_log, evaluations)
    if of in recipe.gated:
        _csv(folder.sparsity_log, _sparsity(recipe.gated[of], steps, reached, random_))
    _json(folder.data_report, _data(recipe))
    if recipe.gpu:
        _csv(folder.gpu_log, _gpu(random_))
    if trial in recipe.failed:
        _json(
            folder.failure_json,
            {"t": STARTED + 60, "attempt": 2, "kind": "oom", "message": recipe.message, "where": "train/loop.py:88",
             "rank": 0, "step": reached},
        )  # fmt: skip
        return
    if trial in recipe.running:
        _json(folder.progress_json, _progress(reached, steps, train[-1]))
        HELD.append(Lease.acquire(folder.lease))
        return
    _json(folder.result_json, _result(job, recipe, train, evaluations, random_))
    _checkpoint(folder, steps, evaluations[-1]["eval_loss"])
    if trial not in recipe.unscored:
        _score_all(folder, job, recipe, random_)


def _score_all(folder: JobDir, job: dict[str, Any], recipe: Recipe, random_: random.Random) -> None:
    for benchmark in recipe.benchmarks:
        _score(folder, benchmark, job, recipe.accuracy[job["_of"]], random_)


def _curves(
    of: str, stage: str, steps: int, reached: int, random_: random.Random, *, overfits: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    floor = 0.22 + 0.05 * (len(of) % 3) + random_.uniform(-0.015, 0.015)
    train, evaluations = [], []
    for step in range(10, reached + 1, 10):
        loss = floor + 2.2 * math.exp(-step / (steps / 6)) + random_.gauss(0, 0.025)
        train.append(
            {"epoch": round(step / 45, 3), "step": step, "train_loss": max(loss, 0.02),
             "learning_rate": 3e-3 * min(step / 20, 1) * 0.5 * (1 + math.cos(math.pi * step / steps)),
             "gpu_memory_mb": 412.0, "sparsity": "",
             "grad_norm": 0.4 + 2 * math.exp(-step / 40) + random_.random() * 0.1,
             "tokens": step * 32 * 73, "target_tokens": step * 64, "tokens_per_s": 21000 + random_.gauss(0, 500)}
        )  # fmt: skip
        if step % 50 == 0 or step == reached:
            rise = 0.9 * max(0.0, step / steps - 0.45) ** 1.5 if overfits and stage == "adapt" else 0.0
            value = floor + 0.05 + 2.1 * math.exp(-step / (steps / 6)) + rise + random_.gauss(0, 0.006)
            evaluations.append(
                {"epoch": round(step / 45, 3), "step": step, "eval_loss": value, "perplexity": math.exp(value),
                 "target_tokens": 720, "loss/upright": value + 0.1, "loss/rotated": value - 0.1}
            )  # fmt: skip
    return train, evaluations


def _result(
    job: dict[str, Any], recipe: Recipe, train: list[dict[str, Any]], evaluations: list[dict[str, Any]],
    random_: random.Random,
) -> dict[str, Any]:  # fmt: skip
    adapter = job["settings"]["adapter"]
    trainable = 9_216 * adapter["lora_r"] // 4 if adapter else 152_640
    duration = 12 + random_.random() * 4
    tokens = int(train[-1]["tokens"] * recipe.token_factor.get(job["_of"], 1.0))
    best = min(evaluations, key=lambda row: row["eval_loss"])
    offset = 30 * job["seed"]
    return {
        "fingerprint": job["fingerprint"], "status": "done", "started_at": STARTED + offset,
        "finished_at": STARTED + offset + duration, "duration_s": duration, "train_s": duration * 0.8,
        "eval_s": duration * 0.12, "save_s": duration * 0.03, "steps": train[-1]["step"], "epochs": train[-1]["epoch"],
        "tokens": tokens, "target_tokens": train[-1]["target_tokens"], "samples": train[-1]["step"] * 32,
        "final_train_loss": train[-1]["train_loss"],
        "best": {"step": best["step"], "metric": "eval_loss", "value": best["eval_loss"]},
        "trainable_params": trainable,
        "total_params": 152_640 + (trainable if adapter else 0),
        "peak_memory_mb": 412.0 + (0 if adapter else 120), "flops_per_token": 6.0 * 152_640, "world_size": 1,
        "micro_batch": 32, "accumulation": 1, "effective_batch_size": 32,
        **_pruned(job, recipe, trainable, random_),
        "roles": [{"role": "language_model", "params": 151_000, "trainable": trainable, "learning_rate": 3e-3,
                   "adapter": "lora" if adapter else None}],
        "eval_ids_sha256": _fingerprint("ids"), "resumed_from": [], "model_kind": "adapter" if adapter else "full",
    }  # fmt: skip


MODULES = [
    f"layers.{layer}.{name}"
    for layer in range(6)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
]
GATES = len(MODULES) * 16


def _sparsity(target: float, steps: int, reached: int, random_: random.Random) -> list[dict[str, Any]]:
    """Shares of 16 gates each: late layers and queries first, cubically to the target at 70 % of the steps."""
    rows = []
    pace = {name: 1.4 - 0.16 * (5 - int(name.split(".")[1])) + 0.3 * ("q_proj" in name) for name in MODULES}
    jitter = {name: random_.uniform(-0.12, 0.12) for name in MODULES}
    for step in range(10, reached + 1, 10):
        wanted = target * (1 - (1 - min(1.0, step / (0.7 * steps))) ** 3)
        shares = {name: round(16 * min(1.0, max(0.0, wanted * (pace[name] + jitter[name])))) / 16 for name in MODULES}
        overall = sum(shares.values()) / len(shares)
        rows.append({"epoch": round(step / 45, 3), "step": step, "overall": round(overall, 6), **shares})
    return rows


def _pruned(job: dict[str, Any], recipe: Recipe, trainable: int, random_: random.Random) -> dict[str, Any]:
    target = recipe.gated.get(job["_of"]) if job["stage"] == "adapt" else None
    if target is None:
        return {"effective_params": trainable}
    share = target + random_.uniform(-0.01, 0.01)
    return {"effective_params": round(trainable * (1 - share)), "sparsity": share, "gates": GATES}


def _score(folder: JobDir, benchmark: str, job: dict[str, Any], accuracy: float, random_: random.Random) -> None:
    near = min(1.0, max(0.0, accuracy + random_.gauss(0, 0.008)))
    right = [random_.random() < near for _ in range(ROWS)]
    rows = [
        {"id": f"digit-{i}", "prediction": "3", "reference": "3" if ok else "8", "correct": ok}
        for i, ok in enumerate(right)
    ]
    folder.eval.mkdir(exist_ok=True)
    folder.predictions(benchmark).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _json(
        folder.eval_json(benchmark),
        {"benchmark": benchmark, "type": "exact_match", "version": 1,
         "fingerprint": job["evaluations"][benchmark]["fingerprint"], "dataset": "rotated@held_out", "n": ROWS,
         "primary": "accuracy", "metrics": {"accuracy": sum(right) / ROWS},
         "rows_sha256": _fingerprint("rows", benchmark), "duration_s": 0.8},
    )  # fmt: skip


def _environment(recipe: Recipe) -> dict[str, Any]:
    gpus = [{"index": 0, "uuid": "GPU-1", "name": "NVIDIA H200", "memory_bytes": 150_754_820_096, "driver": "570.1"}]
    return {
        "host": recipe.host, "time": STARTED, "python": "3.12.3", "os": "Linux-6.8.0-x86_64",
        "cpu": {"model": "AMD EPYC 9554", "cores": 16, "threads": 32, "threads_usable": 16},
        "memory_bytes": 137_438_953_472, "disk_free_bytes": 64_000_000_000, "gpus": gpus if recipe.gpu else [],
        "packages": {"tunestudy": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "git": {"branch": "main", "commit": "a1cd4be" + "0" * 33, "dirty": True, "remote": recipe.remote},
        "env": {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"},
    }  # fmt: skip


def _data(recipe: Recipe) -> dict[str, Any]:
    source = {"read": 1797, "rejected": {"longer than max_length": 3}, "too_long": 3, "samples": 1434,
              "lost": {"not fetched: http 404": 5},
              "tokens": 104_682, "target_tokens": 2868, "language": None, "weight": 1.0,
              "realised_share": 1.0}  # fmt: skip
    return {
        "sources": {"rotated": source},
        "eval": {"rows": 360, "ids_sha256": _fingerprint("ids"), "sources": {"rotated": {"rows": 360}}},
        "overlap": {"rows": recipe.overlap, "examples": [f"digit-{i}" for i in range(min(3, recipe.overlap))]},
    }


def _progress(reached: int, steps: int, last: dict[str, Any]) -> dict[str, Any]:
    return {"t": time.time(), "phase": "train", "attempt": 1, "pid": 4242, "host": "bench-01", "step": reached,
            "total_steps": steps, "epoch": last["epoch"], "loss": last["train_loss"], "eta_s": 41.0, "memory_mb": 412.0,
            "learning_rate": last["learning_rate"], "tokens_per_s": 21000.0}  # fmt: skip


def _checkpoint(folder: JobDir, steps: int, eval_loss: float) -> None:
    path = folder.checkpoint(steps)
    path.mkdir()
    files = {"adapter_model.safetensors": {"size": 147_456, "sha256": "0" * 64}}
    _json(path / "MANIFEST.json", {"kind": "full", "step": steps, "metrics": {"eval_loss": eval_loss}, "files": files})
    for name in (folder.last, folder.best):
        name.write_text(path.name + "\n", encoding="utf-8")


def _gpu(random_: random.Random) -> list[dict[str, Any]]:
    return [
        {"t": STARTED + 5 * i, "device": 0, "utilisation_percent": 60 + random_.random() * 30,
         "memory_mb": 400 + random_.random() * 12, "power_w": 240.0}
        for i in range(6)
    ]  # fmt: skip


def _write_plan(study_dir: StudyDir, jobs: list[dict[str, Any]], recipe: Recipe) -> None:
    steps = {job["id"]: job["settings"]["max_steps"] if job["settings"] else None for job in jobs}
    entries = [
        {"id": job["id"], "stage": job["stage"], "variants": job["variants"], "seed": job["seed"],
         "parents": job["parents"], "fingerprint": job["fingerprint"], "status": "pending", "steps": steps[job["id"]],
         "tokens": (steps[job["id"]] or 0) * 32 * 73 or None, "checkpoints": []}
        for job in jobs
    ]  # fmt: skip
    _json(
        study_dir.plan_json,
        {
            "study": recipe.name,
            "jobs": entries,
            "totals": {"jobs": len(jobs)},
            "orphans": [],
            "changes": [],
            "warnings": [],
        },
    )


def _write_events(study_dir: StudyDir, jobs: list[dict[str, Any]], recipe: Recipe) -> None:
    lines: list[dict[str, Any]] = [{"t": STARTED, "event": "run_started", "pid": 77, "host": recipe.host}]
    for job in jobs:
        trial, start = (job["_of"], job["seed"]), STARTED + 30 * job["seed"]
        if trial in recipe.pending:
            continue
        facts = {"job": job["id"], "attempt": 1}
        lines.append({"t": start, "event": "job_started", **facts, "slot": "gpu:0", "world_size": 1, "pid": 100})
        if trial in recipe.failed + recipe.retried:
            failure = {"kind": "oom", "message": recipe.message, "signal": None, "exit_code": 1, "step": 90,
                       "log": f"jobs/{job['id']}/logs/rank-0.log"}  # fmt: skip
            lines.append({"t": start + 4, "event": "job_failed", **facts, **failure})
            lines.append(
                {
                    "t": start + 5,
                    "event": "job_retried",
                    "job": job["id"],
                    "attempt": 1,
                    "kind": "oom",
                    "step": 90,
                    "reason": "out of memory",
                    "change": "per_device_train_batch_size is 4 in place of 8",
                    "wait_s": 0.0,
                }
            )
            facts = {"job": job["id"], "attempt": 2}
            lines.append(
                {"t": start + 6, "event": "job_started", **facts, "slot": "gpu:0", "world_size": 1, "pid": 101}
            )
            if trial in recipe.failed:
                lines.append({"t": start + 9, "event": "job_failed", **facts, **failure})
        if trial not in recipe.failed + recipe.running:
            lines.append({"t": start + 14, "event": "job_finished", **facts, "duration_s": 13.1})
    study_dir.events.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in sorted(lines, key=lambda line: line["t"]))
    (study_dir.events / "bench-01-77.jsonl").write_text(text, encoding="utf-8")


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

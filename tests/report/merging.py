"""A made study that merges and mixes, planned by the real graph: what jobs of both kinds write is filled in here."""

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from studies import (
    RANDOM_MODEL,
    STARTED,
    Recipe,
    _csv,
    _environment,
    _json,
    _score,
    _write_events,
    _write_job,
    _write_plan,
)

from tunestudy.config.study import Study
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.study.graph import Graph
from tunestudy.study.identity import Identities

BLOCKS = [f"model.layers.{place}" for place in range(6)]
KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
MERGING = Recipe(
    name="korean-and-english",
    description="One model for two languages: trained in turn, merged, or mixed?",
    seeds=(42, 123, 456),
    accuracy={"sequential": 0.71, "linear": 0.66, "dare_ties": 0.72, "mixture": 0.76, "collapsed": 0.64},
)
ONE_SEED = replace(MERGING, seeds=(42,))
ROLES = {"vision_tower": (330, 304_000_000), "projector": (8, 12_600_000), "language_model": (290, 630_000_000)}


def _variants() -> dict[str, Any]:
    train = {"learning_rate": 3e-3, "max_steps": 200, "effective_batch_size": 32}
    vision = {**train, "data": "upright"}
    english, korean = {**train, "data": "upright"}, {**train, "data": "rotated"}
    apart = {"vision": vision, "english": english, "korean": {**korean, "after": "vision"}}
    dare = {
        "type": "merge",
        "method": "dare_ties",
        "base": "vision",
        "models": {
            "en": {"stage": "english", "weight": 0.6, "density": 0.1, "weights": {"projector": 0.5}},
            "ko": {"stage": "korean", "weight": 0.4, "density": 0.1},
        },
        "absent": "average",
        "vocabulary": "union",
    }
    linear = {"type": "merge", "method": "linear", "models": {"en": "english", "ko": "korean"}}
    mole = {
        **korean,
        "adapter": {
            "type": "mole",
            "lora_r": 16,
            "experts": {"merged": None, "en": "english", "ko": "korean"},
            "min_energy": 0.4,
        },
        "intends": None,
    }
    mole.pop("intends")
    hard = {**mole, "adapter": {**mole["adapter"], "gate": "sequence", "top_k": 2, "balance": "none"}}
    return {
        "sequential": {"stages": {"vision": vision, "english": english, "korean": korean}},
        "linear": {"stages": {**apart, "merged": linear}},
        "dare_ties": {"stages": {**apart, "merged": dare}},
        "mixture": {"stages": {**apart, "merged": dare, "mixed": mole}, "intends": ["data"]},
        "collapsed": {"stages": {**apart, "merged": dare, "mixed": hard}, "intends": ["data"]},
    }


def merging_study(recipe: Recipe = MERGING) -> Study:
    return Study.model_validate(
        {
            "study": recipe.name,
            "description": recipe.description,
            "seeds": recipe.seeds,
            "model": RANDOM_MODEL,
            "datasets": {
                "upright": {"type": "digits", "held_out": 0.2},
                "rotated": {"type": "digits", "rotate": 90, "held_out": 0.2},
            },
            "benchmarks": {name: {"type": "exact_match", "dataset": "rotated@held_out"} for name in recipe.benchmarks},
            "variants": _variants(),
            "report": {"baseline": "sequential"},
        }
    )


def make_merging(results: Path, recipe: Recipe = MERGING) -> StudyDir:
    """Write the results folder and return it. `recipe.pending` and `failed` are trials whose last stage is so."""
    study, study_dir = merging_study(recipe), StudyDir(results / "study")
    study_dir.root.mkdir(parents=True)
    _json(study_dir.resolved_yaml, study.model_dump(mode="json"))
    study_dir.study_yaml.write_text(f"study: {recipe.name}\n", encoding="utf-8")
    graph = Graph(study, Identities(study, results, study_dir), "../../../..")
    for seed in study.seeds:
        for variant in study.variants:
            graph.add_trial(variant, seed)
    jobs = [{**job.model_dump(mode="json"), "_of": job.variants[0], "_needs": list(job.needs)} for job in graph.jobs()]
    for job in jobs:
        _write(study_dir.job(job["id"]), job, recipe)
    steps = [{**job, "settings": job["settings"] if "max_steps" in job["settings"] else None} for job in jobs]
    _write_plan(study_dir, [{**job, "parents": job["_needs"]} for job in steps], recipe)
    _write_events(study_dir, jobs, recipe)
    return study_dir


def _write(folder: JobDir, job: dict[str, Any], recipe: Recipe) -> None:
    random_ = random.Random(f"{job['_of']}/{job['stage']}/{job['seed']}")
    if (job["_of"], job["seed"]) in recipe.pending and job["evaluations"]:
        return
    if job["settings"].get("type") == "merge":
        folder.root.mkdir(parents=True)
        _json(folder.job_json, {key: value for key, value in job.items() if not key.startswith("_")})
        _json(folder.env_json, _environment(recipe))
        _json(folder.root / "merge_report.json", merge_report(job, random_))
        _json(folder.result_json, _merge_result(job))
    else:
        _write_job(folder, job, replace(recipe, unscored=((job["_of"], job["seed"]),), pending=()))
    if (job["settings"].get("adapter") or {}).get("type") == "mole":
        of = job["variants"][0]
        _csv(folder.root / "mole_log.csv", gate_rows(list(job["settings"]["adapter"]["experts"]), of, random_))
        _json(folder.root / "experts.json", experts(job, random_))
    for benchmark in job["evaluations"]:
        _score(folder, benchmark, job, recipe.accuracy[job["variants"][0]], random_)


def _merge_result(job: dict[str, Any]) -> dict[str, Any]:
    start = STARTED + 30 * (job["seed"] % 10)
    nothing = dict.fromkeys(("final_train_loss", "best", "flops_per_token", "eval_ids_sha256", "sparsity"))
    zeros = dict.fromkeys(("train_s", "eval_s", "save_s", "steps", "epochs", "tokens", "target_tokens", "samples"), 0)
    counts = dict.fromkeys(("trainable_params", "effective_params", "gates"), 0)
    return {
        "fingerprint": job["fingerprint"], "status": "done", "started_at": start, "finished_at": start + 21.5,
        "duration_s": 21.5, **nothing, **zeros, **counts, "total_params": 946_600_000, "peak_memory_mb": 612.0,
        "world_size": 1, "micro_batch": None, "accumulation": None, "effective_batch_size": None, "roles": [],
        "resumed_from": [], "model_kind": "full", "merge": {"method": job["settings"]["method"]},
    }  # fmt: skip


def merge_report(job: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    settings = job["settings"]
    with_base = settings["base"] is not None
    models = {
        name: {**{key: one[key] for key in ("weight", "weights", "density", "densities")}, "kind": "full",
               "identity": job["inputs"][name].rpartition("-")[2] * 5}
        for name, one in settings["models"].items()
    }  # fmt: skip
    frozen = {"en": 1.0, "ko": 0.0}
    roles = {
        role: {
            "tensors": tensors,
            "parameters": parameters,
            "models": {
                name: {
                    "zero_share": frozen[name] if role == "vision_tower" else 0.002 + 0.001 * random_.random(),
                    "norm": 0.0 if role == "vision_tower" and frozen[name] else 12.3 + random_.random(),
                    "relative_norm": 0.0
                    if role == "vision_tower" and frozen[name]
                    else 0.031 + 0.01 * random_.random(),
                }
                for name in (models if with_base else ())
            },
            "cosine": {"en|ko": 0.04 + 0.02 * random_.random() if with_base else 0.9991},
            "sign_conflict": {"en|ko": 0.48 + 0.01 * random_.random()} if with_base else {},
        }
        for role, (tensors, parameters) in ROLES.items()
    }
    warned = ["en leaves vision_tower as it is in the base: there the merge is ko alone"] if with_base else []
    return {
        "method": settings["method"], "compat": settings["compat"], "seed": job["seed"], "models": models,
        "base": {"kind": "folder", "sha256": job["inputs"]["base"].rpartition("-")[2] * 5} if with_base else None,
        "roles": roles,
        "absent": {"policy": settings["absent"], "tensors": 12 if with_base else 0,
                   "names": [f"abstractor.blocks.{n}.weight" for n in range(8)] if with_base else []},
        "vocabulary": {"tokens": 151_936, "added": {"en": 0, "ko": 312}} if with_base else None,
        "warnings": warned, "duration_s": 18.2 + random_.random(), "threads": 2, "read_bytes": 5_679_600_000,
        "written_bytes": 1_893_200_000,
    }  # fmt: skip


def gate_rows(names: list[str], of: str, random_: random.Random, steps: int = 200) -> list[dict[str, Any]]:
    """Gates that part with training: late blocks towards the last expert; of `collapsed`, all towards the second."""
    rows = []
    jitter = random_.uniform(-0.1, 0.1)
    for step in range(10, steps + 1, 10):
        blocks = []
        for place in range(len(BLOCKS)):
            drive = (6.5 if of == "collapsed" else 0.35 * place + jitter) * (1 - math.exp(-3 * step / steps))
            favourite = 1 if of == "collapsed" else len(names) - 1
            powers = [math.exp(drive if at == favourite else 0.2 * random_.random()) for at in range(len(names))]
            shares = [power / sum(powers) for power in powers]
            entropy = -sum(share * math.log(share) for share in shares) / math.log(len(names))
            balance = len(names) * sum(share * share for share in shares)
            blocks.append([entropy, balance, *shares])
        every = [sum(column) / len(blocks) for column in zip(*blocks, strict=True)]
        for module, values in [*zip(BLOCKS, blocks, strict=True), ("overall", every)]:
            rows.append({"epoch": round(step / 45, 3), "step": step, "module": module, "entropy": values[0],
                         "balance": values[1], **dict(zip(names, values[2:], strict=True))})  # fmt: skip
    return rows


def experts(job: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    adapter = job["settings"]["adapter"]
    told = {}
    for name, one in adapter["experts"].items():
        if one is None:
            told[name] = {"from": None, "use": None, "rank": 0, "energy": None, "overall": None, "outside": None}
            continue
        energy = {
            f"{block}.{kind}": 0.55 + 0.06 * place + 0.1 * random_.random() - (0.3 if kind == "mlp.up_proj" else 0)
            for place, block in enumerate(BLOCKS)
            for kind in KINDS
        }
        told[name] = {"from": job["inputs"].get(name), "use": one["use"], "rank": adapter["lora_r"], "energy": energy,
                      "overall": sum(energy.values()) / len(energy), "outside": 0.081}  # fmt: skip
    return {"experts": told, "min_energy": adapter["min_energy"]}

"""Reads one job directory. What the plan says fills in for a job that has not begun."""

import re
from pathlib import Path
from typing import Any

from tunestudy.records.atomic import pointed_to
from tunestudy.records.layout import JobDir
from tunestudy.records.listing import entries
from tunestudy.records.manifest import read_manifest
from tunestudy.report.collect_mixture import read_gate_log
from tunestudy.report.collect_score import read_score, read_score_log
from tunestudy.report.facts import Best, Checkpoint, Curve, Failure, GpuUse, JobFacts, Settings, Status, Training
from tunestudy.report.reader import Reader
from tunestudy.report.values import mapping, number, numbers, texts, whole
from tunestudy.study.state import is_running


def read_job(folder: JobDir, planned: Settings, reader: Reader) -> JobFacts:
    """The facts of one job; `planned` is its entry in plan.json, empty when the plan is gone."""
    job = reader.json(folder.job_json)
    result = reader.json(folder.result_json)
    fingerprint = str(job.get("fingerprint") or planned.get("fingerprint") or "")
    if fingerprint and result.get("fingerprint") not in (fingerprint, None):
        result = {}  # of an older definition of this stage
    failure = reader.json(folder.failure_json)
    progress = reader.json(folder.progress_json)
    wanted = mapping(job.get("evaluations"))
    scores = {name: score for name in wanted if (score := read_score(folder, name, mapping(wanted[name]), reader))}
    only_evaluated = bool(job) and job.get("settings") is None
    trained = bool(result) or (only_evaluated and bool(scores))
    settled = trained and len(scores) == len(wanted)
    return JobFacts(
        id=str(reader.redact(folder.root.name)),
        stage=str(job.get("stage") or planned.get("stage") or folder.root.name.rpartition("-")[0]),
        variants=tuple(texts(job.get("variants") or planned.get("variants"))),
        seed=whole(job.get("seed", planned.get("seed"))) or 0,
        parents=tuple(texts(job["parents"] if "parents" in job else planned.get("parents"))),
        inputs={str(name): str(of) for name, of in mapping(job.get("inputs")).items()},
        status="done" if settled else _unsettled(folder, trained, failure, progress),
        planned_steps=whole(planned.get("steps")),
        planned_tokens=whole(planned.get("tokens")),
        settings=mapping(job["settings"]) if job.get("settings") else None,
        training=_training(result) if result else None,
        failure=_failure(failure) if failure and not settled else None,
        progress=progress,
        data=reader.json(folder.data_report),
        environment=reader.json(folder.env_json),
        scores=scores,
        wanted=tuple(wanted),
        train_log=read_curve(folder.loss_log, reader),
        eval_log=read_curve(folder.eval_log, reader),
        sparsity_log=read_curve(folder.sparsity_log, reader),
        gate_log=read_gate_log(folder.mole_log, reader),
        experts=reader.json(folder.experts),
        merge_report={**mapping(result.get("merge")), **reader.json(folder.merge_report)},
        score_log=read_score_log(folder, mapping(job.get("evaluations")), scores, whole(result.get("steps")), reader),
        gpu=_gpu_use(reader.table(folder.gpu_log)),
        checkpoints=_checkpoints(folder, reader),
        has_model=folder.model.is_dir(),
    )


def _unsettled(folder: JobDir, trained: bool, failure: Settings, progress: Settings) -> Status:
    """What a job that is not done is doing; the same judgement as `study.state.job_status`."""
    if _is_running(folder):
        return "running"
    if failure:
        return "failed"
    if trained:
        return "evaluate"
    return "interrupted" if progress else "pending"


def _is_running(folder: JobDir) -> bool:
    """Whether someone holds the job; on a disk that cannot be written, where leases cannot be judged, nobody does."""
    try:
        return is_running(folder)
    except OSError:
        return False


def _training(result: Settings) -> Training:
    best = mapping(result.get("best"))
    step, value = whole(best.get("step")), number(best.get("value"))
    known = step is not None and value is not None
    real = ["started_at", "finished_at", "duration_s", "train_s", "eval_s", "save_s", "epochs", "final_train_loss"]
    real += ["peak_memory_mb", "flops_per_token", "sparsity"]
    counted = [
        "steps",
        "tokens",
        "target_tokens",
        "samples",
        "gates",
        "trainable_params",
        "effective_params",
        "total_params",
    ]
    batch = ("world_size", "micro_batch", "accumulation", "effective_batch_size")
    facts: dict[str, Any] = {name: number(result.get(name)) for name in real}
    facts |= {name: whole(result.get(name)) for name in (*counted, *batch)}
    return Training(
        **facts,
        best=Best(step=step or 0, metric=str(best.get("metric") or ""), value=value or 0.0) if known else None,
        roles=[mapping(role) for role in result.get("roles") or []],
        eval_ids_sha256=result.get("eval_ids_sha256"),
        resumed_from=[at for entry in result.get("resumed_from") or [] if (at := whole(entry)) is not None],
    )


def _failure(failure: Settings) -> Failure:
    return Failure(
        attempt=whole(failure.get("attempt")),
        kind=str(failure.get("kind") or "error"),
        message=str(failure.get("message") or "no message was recorded"),
        where=str(failure.get("where") or ""),
        step=whole(failure.get("step")),
        signal=str(failure.get("signal") or ""),
        exit_code=whole(failure.get("exit_code")),
        log=str(failure.get("log") or ""),
    )


def read_curve(path: Path, reader: Reader) -> Curve:
    """The numeric columns of a CSV log; a field that is no finite number becomes NaN so that rows stay aligned."""
    rows = [row for row in reader.table(path) if number(row.get("step")) is not None]
    columns = [name for name in (rows[0] if rows else {}) if any(number(row.get(name)) is not None for row in rows)]
    nan = float("nan")
    found = {name: [number(row.get(name)) for row in rows] for name in columns}
    return {name: [nan if value is None else value for value in values] for name, values in found.items()}


def _gpu_use(rows: list[dict[str, str]]) -> GpuUse | None:
    if not rows:
        return None

    def column(name: str) -> list[float]:
        return [known for row in rows if (known := number(row.get(name))) is not None]

    def average(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    memory = column("memory_mb")
    return GpuUse(
        mean_utilisation_percent=average(column("utilisation_percent")),
        mean_memory_mb=average(memory),
        peak_memory_mb=max(memory, default=None),
        devices=len({row.get("device") for row in rows}),
    )


def _checkpoints(folder: JobDir, reader: Reader) -> list[Checkpoint]:
    """Sealed checkpoints on disk by step; sizes come from the manifests, no tensor file is opened."""
    marks = {mark: target.name for mark in ("best", "last") if (target := pointed_to(folder.root / mark))}
    found = []
    for path in entries(folder.root):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match is None or (manifest := read_manifest(path)) is None:
            continue
        sizes = [number(mapping(entry).get("size")) or 0 for entry in manifest["files"].values()]
        facts = mapping(reader.redact({key: manifest.get(key) for key in ("kind", "metrics")}))
        found.append(
            Checkpoint(
                name=path.name,
                step=int(match.group(1)),
                kind=str(facts.get("kind") or "lite"),
                metrics=numbers(facts.get("metrics")),
                size_bytes=int(sum(sizes)),
                marks=tuple(mark for mark, name in marks.items() if name == path.name),
            )
        )
    return sorted(found, key=lambda checkpoint: checkpoint.step)

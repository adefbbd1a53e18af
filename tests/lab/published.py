"""A study whose one job has published an adapter, written by hand: what pushing reads, without any training."""

import hashlib
from pathlib import Path

from tunestudy.config.job import Job
from tunestudy.records.atomic import write_json
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.manifest import seal
from tunestudy.study.sharing import Target

WEIGHTS = b"weights " * 2000


def make_published(root: Path, name: str = "adapt", *, result: bool = True) -> JobDir:
    """The job's folder below `root`; `result`: whether its model is there, too."""
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    settings = {"data": ("d",), "learning_rate": 1e-3, "push_to_hub": True, "hub_strategy": "every_save"}
    job = Job(
        id=f"{name}-{fingerprint[:12]}",
        stage=name,
        fingerprint=fingerprint,
        seed=1,
        variants=("v",),
        model={"model_name_or_path": "org/base"},
        settings=settings,
    )
    folder = StudyDir(root / "study").job(job.id)
    write_json(folder.job_json, job.model_dump(mode="json"))
    if result:
        publish(folder, WEIGHTS)
    return folder


def publish(folder: JobDir, weights: bytes) -> None:
    """The job's result, anew."""
    fingerprint = Job.model_validate_json(folder.job_json.read_text(encoding="utf-8")).fingerprint
    seal_files(folder.model, {"adapter_model.safetensors": weights, "tokenizer.json": b"{}"})
    write_json(folder.result_json, {"fingerprint": fingerprint})


def checkpoint(folder: JobDir, step: int) -> Path:
    """A sealed full checkpoint."""
    files = {"adapter_model.safetensors": f"at {step}".encode(), "resume/state.json": b"{}"}
    seal_files(folder.checkpoint(step), files, kind="full", step=step)
    return folder.checkpoint(step)


def seal_files(final: Path, files: dict[str, bytes], **facts: object) -> None:
    prepared = final.parent / f".tmp-{final.name}"
    for name, content in {"adapter_config.json": b'{"base_model_name_or_path": "org/base"}', **files}.items():
        (prepared / name).parent.mkdir(parents=True, exist_ok=True)
        (prepared / name).write_bytes(content)
    seal(prepared, final, {"kind": "adapter", "base": {"kind": "hub", "name": "org/base", "revision": "abc"}, **facts})


def target_of(folder: JobDir, repo: str = "me/it", strategy: str = "every_save") -> Target:
    return Target(job=folder.root.name, repo=repo, strategy=strategy)

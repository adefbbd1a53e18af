"""A job that merges, from its inputs to its published result: find → compare → survey → merge → carry → seal."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.job import Job
from tunestudy.config.merge import BASE
from tunestudy.merge.adapters import merge_adapters
from tunestudy.merge.compare import Compared, compare
from tunestudy.merge.inputs import open_inputs
from tunestudy.merge.lineage import check_lineage
from tunestudy.merge.publish import PROVENANCE, carry, provenance, seal_merged, write_result
from tunestudy.merge.stream import merge_into
from tunestudy.merge.survey import of_models, survey
from tunestudy.records.atomic import is_disk_full, temporary_beside, write_json
from tunestudy.records.layout import JobDir
from tunestudy.records.progress import Progress
from tunestudy.records.snapshot import usable_threads
from tunestudy.records.space import NoSpaceError
from tunestudy.records.stop import StopRequest

NAMED = 8
"""Absent tensors that the report names."""
WARNED = 3
"""Warnings that result.json repeats."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a merge came to, for the report."""

    parameters: int
    threads: int
    read_bytes: int
    written_bytes: int
    details: dict[str, Any]
    """Added to the report's keys."""
    warnings: tuple[str, ...] = ()
    """Known only when it is done."""


def run_merge(job: Job, folder: JobDir, stop: StopRequest) -> bool:
    """Merge and publish `model/` and result.json; False, with nothing published, when asked to stop on the way.

    A merge that was killed starts over: nothing of it looks like a model. Raises StudyError for inputs that do not go
    together, and OSError(ENOSPC) when the disk is full, whoever noticed.
    """
    progress = Progress(folder, writes=True, computing_counts=True)  # some methods take a large tensor as a whole
    prepared = temporary_beside(folder.model)
    try:
        finished = _merge(job, folder, prepared, stop, progress)
        progress.tell(phase="save" if finished else "interrupted")
        return finished
    except Exception as error:
        if is_disk_full(error):
            shutil.rmtree(prepared, ignore_errors=True)
            raise NoSpaceError("to publish the result", folder.root, None, error) from error
        raise
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
        progress.close()


def _merge(job: Job, folder: JobDir, prepared: Path, stop: StopRequest, progress: Progress) -> bool:
    settings = job.merging
    assert settings is not None
    began, threads = time.monotonic(), settings.threads or usable_threads()
    lineage = check_lineage(job, folder)
    compared = compare(open_inputs(job, folder), settings, job.stage)
    inputs = compared.inputs
    progress.tell(phase="survey")
    found = survey(
        inputs, settings, job.stage, threads=threads, stop=lambda: bool(stop), note=_share(progress, "survey")
    )
    if found is None:
        return False
    report = _report(job, compared, found, lineage)
    write_json(folder.merge_report, report)
    progress.tell(phase="merge")
    done = _into_adapter(job, compared, prepared, progress) if settings.into == "adapter" else None
    if done is None:
        done = _into_model(job, compared, prepared, threads, stop, progress)
    if done is None:
        return False
    progress.tell(phase="save")
    carry(job, compared, prepared)
    write_json(prepared / PROVENANCE, provenance(job, compared))
    kind = seal_merged(job, folder, inputs, prepared)
    facts = {"threads": done.threads, "read_bytes": done.read_bytes, "written_bytes": done.written_bytes}
    report |= {"duration_s": round(time.monotonic() - began, 3), **facts, **done.details}
    report["warnings"] = [*report["warnings"], *done.warnings]
    write_json(folder.merge_report, report)
    summary = {"method": settings.method, "compat": settings.compat, "models": list(inputs.models)}
    summary["warnings"] = report["warnings"][:WARNED]
    write_result(job, folder, progress, kind=kind, total_params=done.parameters, merge=summary)
    return True


def _share(progress: Progress, phase: str) -> Callable[[float], None]:
    """What tells how much of a phase is done, as a part of its name."""
    return lambda share: progress.tell(phase=f"{phase} {100 * share:.0f}%")


def _into_model(
    job: Job, compared: Compared, prepared: Path, threads: int, stop: StopRequest, progress: Progress
) -> Done | None:
    assert job.merging is not None
    facts = merge_into(
        prepared,
        compared.inputs,
        job.merging,
        seed=job.seed,
        threads=threads,
        stop=lambda: bool(stop),
        note=_share(progress, "merge"),
        moves=progress.move,
    )
    if facts is None:
        return None
    return Done(
        parameters=facts.parameters,
        threads=facts.threads,
        read_bytes=facts.read_bytes,
        written_bytes=facts.written_bytes,
        details={},
    )


def _into_adapter(job: Job, compared: Compared, prepared: Path, progress: Progress) -> Done:
    """Adapters as one; total_params are those of the base and of the adapter on it, as for a trained one."""
    assert job.merging is not None
    inputs = compared.inputs
    folders = {name: inputs.folders[name] for name in inputs.models}
    prepared.mkdir(parents=True)
    facts = merge_adapters(prepared, folders, job.merging, seed=job.seed, moves=progress.move)
    base = sum(info.num_values for info in next(iter(inputs.models.values())).tensors.values())
    energy = {"rank": facts.rank, "exact": facts.exact, "energy": facts.energy, "worst": facts.worst}
    return Done(
        parameters=base + facts.parameters,
        threads=1,
        read_bytes=facts.read_bytes,
        written_bytes=facts.written_bytes,
        details={"adapter": energy},
        warnings=facts.warnings,
    )


def _report(job: Job, compared: Compared, found: dict[str, Any], lineage: list[str]) -> dict[str, Any]:
    """merge_report.json before the merge: what came of it is filled in after."""
    settings, inputs, matched = job.merging, compared.inputs, compared.matched
    assert settings is not None
    absent = {"policy": settings.absent, "tensors": len(compared.absent), "names": list(compared.absent[:NAMED])}
    return {
        "method": settings.method,
        "compat": settings.compat,
        "seed": job.seed,
        "models": of_models(inputs, settings),
        "base": inputs.identities.get(BASE),
        "roles": found["roles"],
        "absent": absent,
        "vocabulary": None if matched is None else matched.as_json(),
        "warnings": [*lineage, *compared.warnings, *found["warnings"]],
        **dict.fromkeys(("duration_s", "threads", "read_bytes", "written_bytes")),
    }

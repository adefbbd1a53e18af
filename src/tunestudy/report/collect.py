"""Reads a run directory into `StudyFacts`. Missing files are normal, broken ones are named, secrets are cut out."""

import time
from collections.abc import Iterable
from dataclasses import replace

from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.listing import entries
from tunestudy.records.redact import redact
from tunestudy.report.collect_job import read_job
from tunestudy.report.facts import JobFacts, Settings, StudyFacts, VariantFacts
from tunestudy.report.reader import Reader
from tunestudy.report.values import mapping, number, texts


def collect(study_dir: StudyDir) -> StudyFacts:
    """All that `study_dir` holds. Never writes, never fails on what is missing or half-written."""
    reader = Reader(study_dir.root)
    resolved = reader.yaml(study_dir.resolved_yaml)
    plan = reader.json(study_dir.plan_json)
    entries = plan.get("jobs")
    planned = [mapping(entry) for entry in (entries if isinstance(entries, list) else ()) if mapping(entry).get("id")]
    on_disk = _job_folders(study_dir)
    names = [str(entry["id"]) for entry in planned] or on_disk
    by_id = {str(entry["id"]): entry for entry in planned}
    expected = reader.json(study_dir.estimates)
    jobs = [
        replace(
            read_job(JobDir(study_dir.jobs / name), by_id.get(name, {}), reader),
            expected_s=number(mapping(expected.get(name)).get("train_s")),
            expected=mapping(expected.get(name)),
        )
        for name in names
    ]
    return StudyFacts(
        name=str(resolved.get("study") or plan.get("study") or redact(study_dir.root.name)),
        description=str(resolved.get("description") or ""),
        seeds=_seeds(resolved, jobs),
        variants=_variants(resolved, jobs),
        benchmarks=_benchmarks(resolved, jobs),
        model=mapping(resolved.get("model")),
        report=mapping(resolved.get("report")),
        study_text=reader.text(study_dir.study_yaml),
        jobs=jobs,
        orphans=[redact(name) for name in on_disk if name not in names],
        plan_warnings=texts(plan.get("warnings")),
        events=reader.guarded(study_dir.events, read_events, []),
        packing=reader.json(study_dir.packing),
        unreadable=reader.unreadable,
        gathered_at=time.time(),
        accounting=reader.json(study_dir.slurm.accounting),
    )


def _seeds(resolved: Settings, jobs: Iterable[JobFacts]) -> tuple[int, ...]:
    listed = [seed for seed in resolved.get("seeds") or [] if isinstance(seed, int)]
    return tuple(listed) or tuple(sorted({job.seed for job in jobs}))


def _variants(resolved: Settings, jobs: Iterable[JobFacts]) -> dict[str, VariantFacts]:
    """As the study defines them; without a resolved study, as the jobs name them, in the order they are met."""
    defined = {
        str(name): VariantFacts(
            name=str(name),
            description=str(mapping(value).get("description") or ""),
            stages={str(stage): mapping(of) for stage, of in mapping(mapping(value).get("stages")).items()},
            intends=tuple(texts(mapping(value).get("intends"))),
        )
        for name, value in mapping(resolved.get("variants")).items()
    }
    if defined:
        return defined
    stages: dict[str, dict[str, Settings]] = {}
    for job in jobs:
        for variant in job.variants:
            stages.setdefault(variant, {})[job.stage] = job.settings or {}
    return {name: VariantFacts(name=name, description="", stages=of, intends=()) for name, of in stages.items()}


def _benchmarks(resolved: Settings, jobs: Iterable[JobFacts]) -> dict[str, Settings]:
    defined = {str(name): mapping(value) for name, value in mapping(resolved.get("benchmarks")).items()}
    for job in jobs:
        for name in (*job.wanted, *job.scores):
            defined.setdefault(name, {})
    return defined


def _job_folders(study_dir: StudyDir) -> list[str]:
    return [path.name for path in entries(study_dir.jobs) if path.is_dir() and not path.name.startswith(".")]

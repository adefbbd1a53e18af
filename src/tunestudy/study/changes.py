"""What an edit changes: each job that is new and the key that made it so, and what is left behind on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.config.job import Job
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import StudyDir
from tunestudy.study.fingerprint import significant
from tunestudy.study.identity import Identities
from tunestudy.study.state import folders_on_disk


@dataclass(frozen=True)
class Change:
    """Jobs of one stage that differ from those of the last plan for the same reasons."""

    stage: str
    variants: tuple[str, ...]
    kind: str
    """`new` (there was none before), `changed` (trained again) or `evaluation` (only scored again)."""
    jobs: tuple[str, ...]
    keys: tuple[tuple[str, Any, Any], ...]
    """(key, old, new) of every difference; a parent that changed is the key `after <stage>`."""

    def as_json(self) -> dict[str, Any]:
        keys = [{"key": key, "old": old, "new": new} for key, old, new in self.keys]
        return {
            "stage": self.stage,
            "variants": list(self.variants),
            "kind": self.kind,
            "jobs": list(self.jobs),
            "keys": keys,
        }

    def __str__(self) -> str:
        who = ", ".join(self.variants[:3]) + (f" and {len(self.variants) - 3} more" if len(self.variants) > 3 else "")
        count = f"{len(self.jobs)} job{'s' if len(self.jobs) != 1 else ''}"
        if self.kind == "new":
            return f"{self.stage} ({who}): {count} new"
        why = "; ".join(
            key if key.startswith("after ") else f"{key} {_shown(old)} → {_shown(new)}" for key, old, new in self.keys
        )
        done = "scored again" if self.kind == "evaluation" else "trained again"
        return f"{self.stage} ({who}): {count} {done}: {why or 'a newer tunestudy computes it differently'}"


@dataclass(frozen=True)
class Orphan:
    """A job directory that no job of the plan has."""

    id: str
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "size_bytes": self.size_bytes}


def find_orphans(jobs: Sequence[Job], folder: StudyDir) -> list[Orphan]:
    """Directories under `jobs/` that the plan does not know, with their sizes."""
    left = folders_on_disk(folder) - {job.id for job in jobs}
    return [Orphan(name, _size(folder, name)) for name in sorted(left)]


def explain_changes(jobs: Sequence[Job], folder: StudyDir, identities: Identities) -> list[Change]:
    """Compare with `plan.json` and the job.json files of last time; nothing when there was none, or nothing changed.

    Jobs that changed for the same reasons are told together. One seed stands for all: they differ in nothing else.
    """
    last = read_json(folder.plan_json)
    if not isinstance(last, dict) or not isinstance(last.get("jobs"), list):
        return []
    before = _Before(last, folder)
    changed: dict[str, list[tuple[str, Any, Any]]] = {}
    told: dict[tuple[Any, ...], list[Job]] = {}
    reasons: dict[tuple[Any, ...], tuple[str, tuple[tuple[str, Any, Any], ...]]] = {}
    for job in jobs:
        group = (job.stage, job.variants)
        if group not in reasons:
            reasons[group] = before.compare(job, identities, changed)
        kind, keys = reasons[group]
        if kind in ("new", "changed"):
            changed[job.id] = list(keys)
        if kind == "new" and job.id in before.ids:
            continue
        if kind:
            told.setdefault((job.stage, kind, repr(keys)), []).append(job)
    return [_change(group, reasons, found) for group, found in told.items()]


def _change(group: tuple[Any, ...], reasons: Any, jobs: list[Job]) -> Change:
    stage, kind, _ = group
    variants = tuple(dict.fromkeys(name for job in jobs for name in job.variants))
    return Change(stage, variants, kind, tuple(job.id for job in jobs), reasons[stage, jobs[0].variants][1])


class _Before:
    """The jobs of the last plan."""

    def __init__(self, last: dict[str, Any], folder: StudyDir) -> None:
        self._folder = folder
        self._inputs = last.get("inputs") or {}
        self.ids: set[str] = {entry["id"] for entry in last["jobs"]}
        self._by_trial: dict[tuple[str, int, str], str] = {
            (variant, entry["seed"], entry["stage"]): entry["id"]
            for entry in last["jobs"]
            for variant in entry["variants"]
        }

    def compare(
        self, job: Job, identities: Identities, changed: dict[str, Any]
    ) -> tuple[str, tuple[tuple[str, Any, Any], ...]]:
        """How `job` differs from the one that served the same trial: kind ("" for not at all) and keys."""
        old_id = next(
            (found for name in job.variants if (found := self._by_trial.get((name, job.seed, job.stage)))), None
        )
        if old_id is None:
            return ("" if job.id in self.ids else "new"), ()
        old = read_json(self._folder.job(old_id).job_json)
        if not isinstance(old, dict):
            return ("changed" if old_id != job.id else ""), ()
        if old_id == job.id:
            keys = tuple(_evaluation_differences(old, job))
            return ("evaluation" if keys else ""), keys
        return "changed", tuple(self._differences(old, job, identities, changed))

    def _differences(
        self, old: dict[str, Any], job: Job, identities: Identities, changed: dict[str, Any]
    ) -> Iterator[tuple[str, Any, Any]]:
        new_settings = significant(job.settings) if job.settings else {}
        yield from _compared(old.get("settings") or {}, new_settings, "", only=set(new_settings))
        old_inputs, names = self._inputs.get("datasets") or {}, set(job.datasets)
        for name in sorted(names & set(old_inputs)):
            yield from _compared(old_inputs[name], identities.datasets[name], f"datasets.{name}.")
        yield from _compared(self._inputs.get("model") or {}, identities.model, "model.")
        for parent in job.parents:
            if parent in changed:
                yield f"after {parent.rpartition('-')[0]}", None, None


def _evaluation_differences(old: dict[str, Any], job: Job) -> Iterator[tuple[str, Any, Any]]:
    scored = old.get("evaluations") or {}
    for name, evaluation in job.evaluations.items():
        if name not in scored:
            yield f"benchmarks.{name}", None, "new"
        elif scored[name]["fingerprint"] != evaluation.fingerprint:
            new = significant(evaluation.benchmark)
            yield from _compared(scored[name]["benchmark"], new, f"benchmarks.{name}.", only=set(new))


def _compared(old: Any, new: Any, prefix: str, only: set[str] | None = None) -> Iterator[tuple[str, Any, Any]]:
    """Leaves that differ; `only`: the keys of the outermost level that count (others are neutral)."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if before == after or (only is not None and key not in only):
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _compared(before, after, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", before, after


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "…"


def _size(folder: StudyDir, name: str) -> int:
    return sum(
        entry.lstat().st_size
        for entry in folder.job(name).root.rglob("*")
        if entry.is_file() and not entry.is_symlink()
    )

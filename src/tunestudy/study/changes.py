"""What an edit changes: each job that is new and the key that made it so, and what is left behind on disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from tunestudy.config.job import Job
from tunestudy.config.merge import BASE, MergeStage, Weights
from tunestudy.config.stage import inputs_of
from tunestudy.records.atomic import read_json
from tunestudy.records.layout import StudyDir
from tunestudy.records.listing import size_of
from tunestudy.study.fingerprint import significant
from tunestudy.study.identity import Identities
from tunestudy.study.state import folders_on_disk

Difference = tuple[str, Any, Any]
"""(key, old, new)."""


@dataclass(frozen=True)
class Change:
    """Jobs of one stage that differ from those of the last plan for the same reasons."""

    stage: str
    variants: tuple[str, ...]
    kind: str
    """`new` (there was none before), `changed` (trained again) or `evaluation` (only scored again)."""
    jobs: tuple[str, ...]
    keys: tuple[Difference, ...]
    """Every difference; a parent or an input that changed is the key `after <stage>`."""

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
    return [Orphan(name, size_of(folder.job(name).root)) for name in sorted(left)]


def _is_entry(value: Any) -> bool:
    """Whether it is a job as `plan.json` lists it."""
    named = isinstance(value, dict) and {"id", "stage", "seed", "variants"} <= value.keys()
    return named and isinstance(value["id"], str) and isinstance(value["variants"], list)


def explain_changes(jobs: Sequence[Job], folder: StudyDir, identities: Identities) -> list[Change]:
    """Compare with `plan.json` and the job.json files of last time; nothing when there was none, or nothing changed.

    Jobs that changed for the same reasons are told together. One seed stands for all: they differ in nothing else.
    """
    last = read_json(folder.plan_json)
    if not isinstance(last, dict) or not isinstance(last.get("jobs"), list) or not all(map(_is_entry, last["jobs"])):
        return []  # none of ours: nothing can be compared
    before = _Before(last, folder, identities)
    reasons: dict[tuple[str, tuple[str, ...]], _Reason] = {}
    told: dict[tuple[str, _Reason], list[Job]] = {}
    for job in jobs:
        old_id = before.job_of_trial(job)
        if old_id is None:
            reason = _Reason("" if job.id in before.ids else "new")
        else:
            group = (job.stage, job.variants)
            reason = reasons[group] = reasons.get(group) or before.compare(job, old_id)
        if reason.kind in ("new", "changed"):
            before.retrained.add(job.id)
        if reason.kind:
            told.setdefault((job.stage, reason), []).append(job)
    return [_change(stage, reason, found) for (stage, reason), found in told.items()]


def _change(stage: str, reason: "_Reason", jobs: list[Job]) -> Change:
    variants = tuple(dict.fromkeys(name for job in jobs for name in job.variants))
    return Change(stage, variants, reason.kind, tuple(job.id for job in jobs), reason.keys)


class _Reason(NamedTuple):
    """Why a job is not what it was; `kind` as in Change, empty when it is."""

    kind: str
    keys: tuple[Difference, ...] = ()

    def __hash__(self) -> int:
        return hash(repr(self))  # values may be lists


class _Before:
    """The jobs of the last plan."""

    def __init__(self, last: dict[str, Any], folder: StudyDir, identities: Identities) -> None:
        self._folder, self._identities = folder, identities
        self._inputs = last.get("inputs") or {}
        self.retrained: set[str] = set()
        """Jobs of the new plan that are trained again, as far as they have been looked at: parents come first."""
        self.ids: set[str] = {entry["id"] for entry in last["jobs"]}
        self._by_trial: dict[tuple[str, int, str], str] = {
            (name, entry["seed"], entry["stage"]): entry["id"] for entry in last["jobs"] for name in entry["variants"]
        }

    def job_of_trial(self, job: Job) -> str | None:
        """The job that served the same stage of the same variant at the same seed."""
        found = (self._by_trial.get((name, job.seed, job.stage)) for name in job.variants)
        return next((old for old in found if old), None)

    def compare(self, job: Job, old_id: str) -> _Reason:
        """How `job` differs from the old one."""
        old = read_json(self._folder.job(old_id).job_json)
        if not isinstance(old, dict):
            return _Reason("changed" if old_id != job.id else "")
        if old_id != job.id:
            found = tuple(self._differences(old, job))
            return _Reason("changed", found or tuple(_other_content(job)))
        scored = old.get("evaluations") or {}
        changed = [name for name, now in job.evaluations.items() if _fingerprint(scored.get(name)) != now.fingerprint]
        keys = tuple(key for name in changed for key in self._evaluation_differences(name, scored.get(name), job))
        return _Reason("evaluation" if changed else "", keys)

    def _differences(self, old: dict[str, Any], job: Job) -> Iterator[Difference]:
        new_settings = significant(job.settings) if job.settings else {}
        yield from _compared(_significant_settings(old), new_settings, "", only=set(new_settings))
        yield from _origins(old, job)
        before, now = self._inputs.get("datasets") or {}, self._identities.datasets
        for name in sorted(set(job.datasets) & set(before)):
            yield from _compared(before[name], now[name], f"datasets.{name}.")
        yield from _compared(self._inputs.get("model") or {}, self._identities.model, "model.")
        for parent in job.needs:
            if parent in self.retrained:
                yield f"after {parent.rpartition('-')[0]}", None, None

    def _evaluation_differences(self, name: str, scored: dict[str, Any] | None, job: Job) -> Iterator[Difference]:
        """Why a benchmark is scored again: a key of its own, of its definition, or of the data that it reads."""
        if scored is None:
            yield f"benchmarks.{name}", None, "new"
            return
        new = significant(job.evaluations[name].benchmark)
        yield from _compared(_without_neutral(scored["benchmark"], new), new, f"benchmarks.{name}.")
        dataset = str(new["dataset"]).partition("@")[0]
        before, now = self._inputs.get("datasets") or {}, self._identities.datasets
        if dataset in before and dataset in now:
            yield from _compared(before[dataset], now[dataset], f"datasets.{dataset}.")


def _significant_settings(old: dict[str, Any]) -> Any:
    """Settings as job.json has them, without those that change no result; as they are where they cannot be read."""
    settings = old.get("settings")
    try:
        kept = Job.model_validate(old).settings
    except ValidationError:
        return settings or {}  # of an older version: keys that it had are told as differences
    return significant(kept) if kept else {}


def _origins(old: dict[str, Any], job: Job) -> Iterator[Difference]:
    """Other stages or folders in place of those that the job started from, merged, or made experts of."""
    parents = old.get("parents") or []
    before, now = _stage(parents), _stage(job.parents)
    if before != now and before and now:
        yield "after", before, now
    read = _inputs(old.get("settings") or {})
    for key, one in _read_by(job):
        was = read.get(key.rpartition(".")[2]) or {}
        for origin in ("stage", "path"):
            if was and was.get(origin) != getattr(one, origin):
                yield f"{key}.{origin}", was.get(origin), getattr(one, origin)


def _other_content(job: Job) -> Iterator[Difference]:
    """Folders that the job reads: where nothing else differs, what lies in one of them does."""
    for key, one in _read_by(job):
        if one.path is not None:
            yield f"{key}.path", one.path, f"{one.path} with other content"


def _read_by(job: Job) -> Iterator[tuple[str, Weights]]:
    """Key inside the stage and origin of each input."""
    for name, one in (inputs_of(job.settings) if job.settings else {}).items():
        if isinstance(job.settings, MergeStage):
            yield (name if name == BASE else f"models.{name}"), one
        else:
            yield f"adapter.experts.{name}", one


def _inputs(settings: dict[str, Any]) -> dict[str, Any]:
    """Of settings as job.json has them, what `config.stage.inputs_of` gives of valid ones."""
    if settings.get("type") == "merge":
        return {BASE: settings.get("base"), **(settings.get("models") or {})}
    return (settings.get("adapter") or {}).get("experts") or {}


def _stage(jobs: Sequence[str]) -> str:
    """The stage of the last job: `adapt-0123456789ab` → `adapt`."""
    return jobs[-1].rpartition("-")[0] if jobs else ""


def _without_neutral(old: Any, new: Any) -> Any:
    """What job.json says of settings, without the keys that the significant form of today's does not have."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return old
    return {key: _without_neutral(value, new[key]) for key, value in old.items() if key in new}


def _fingerprint(scored: Any) -> str:
    return str(scored["fingerprint"]) if scored else ""


def _compared(old: Any, new: Any, prefix: str, only: set[str] | None = None) -> Iterator[Difference]:
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
    text = "null" if value is None else " ".join(str(value).split())
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else text[:57] + "…"

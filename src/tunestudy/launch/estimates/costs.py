"""What a study will cost, put together: counted memory, timed steps, what its file states."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.study import Study
from tunestudy.launch.estimates.card import Card, card_of
from tunestudy.launch.estimates.doubts import doubts, gigabytes, hours
from tunestudy.launch.estimates.probe import in_hub_cache, not_to_time
from tunestudy.launch.estimates.schedule import make_schedule
from tunestudy.records.atomic import read_object, write_json
from tunestudy.records.host import host_name
from tunestudy.records.hub_cache import hub_cache
from tunestudy.records.locked import item_problems, lock_beside, read_lock
from tunestudy.study.estimates.costs import StageCost, remembered, stage_costs
from tunestudy.study.estimates.spans import Span, total
from tunestudy.study.estimates.timing import expected_times
from tunestudy.study.plan import Plan

ASK = "size unknown here; `fetch --dry-run` asks"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of a whole study."""

    stages: Sequence[StageCost]
    card: Card
    job_s: Span | None
    """Of all jobs that are still to do."""
    left: Span | None
    """Until all is done, with as many jobs at once as there are slots."""
    gpu_hours: Span | None
    disk_bytes: Span | None
    downloads: Mapping[str, str]
    """What is named of the hub → whether it is here."""
    doubts: Sequence[str]
    notes: Sequence[str]
    now: float

    def as_json(self) -> dict[str, Any]:
        def of(span: Span | None) -> dict[str, float] | None:
            return None if span is None else span.as_json()

        done = None if self.left is None else Span.exactly(self.now) + self.left
        return {
            "card": self.card.as_json(),
            "stages": [
                {
                    **stage.as_json(),
                    "fits": fits_in_words(stage, self.card.bytes),
                    "job_ids": [p.job.id for p in stage.group.jobs],
                }
                for stage in self.stages
            ],
            "totals": {
                "job_s": of(self.job_s),
                "left_s": of(self.left),
                "done_at": of(done),
                "gpu_hours": of(self.gpu_hours),
                "disk_bytes": of(self.disk_bytes),
            },
            "downloads": dict(self.downloads),
            "doubts": list(self.doubts),
            "notes": list(self.notes),
        }


def put_together(plan: Plan, base: Path, *, now: float, notes: Sequence[str] = ()) -> Costs:
    """Of every stage and in total. What could not be known is told in `notes`."""
    card = card_of(plan.study)
    stages = stage_costs(plan, host=host_name(), device=card.device)
    job_s = total(stage.seconds_left(planned) for stage in stages for planned in stage.group.jobs)
    per_job = plan.study.resources.ranks * plan.study.resources.gpus_per_rank
    return Costs(
        stages=stages,
        card=card,
        job_s=job_s,
        left=_left(plan, stages),
        gpu_hours=None if job_s is None else job_s.times(per_job / 3600),
        disk_bytes=_disk(stages),
        downloads=_downloads(plan.study, base),
        doubts=[*doubts(stages, card.bytes), *_of_the_study(plan.study, job_s)],
        notes=[*notes, *_unknown(plan, base, stages, card)],
        now=now,
    )


def remember_costs(plan: Plan, costs: Costs) -> None:
    """Keep what is expected of jobs that have not begun, for the report and for packing."""
    known = read_object(plan.folder.estimates)
    new = remembered(costs.stages, known)
    if new:
        write_json(plan.folder.estimates, {**known, **new})


def _left(plan: Plan, stages: Sequence[StageCost]) -> Span | None:
    """Until the last job is done; jobs that train nothing count as none."""
    spans = {planned.job.id: stage.seconds_left(planned) for stage in stages for planned in stage.group.jobs}
    if not spans or None in spans.values():
        return None
    times = expected_times(plan, ranks=plan.study.resources.ranks, host=host_name())

    def until(end: str) -> float:
        left: Mapping[str, float | None] = {
            planned.job.id: 0.0 if (span := spans.get(planned.job.id)) is None else float(getattr(span, end))
            for planned in plan.jobs
        }
        packing = make_schedule(plan, times, left).packing
        return 0.0 if packing is None else packing.makespan

    return Span(until("low"), until("expected"), until("high"))


def _disk(stages: Sequence[StageCost]) -> Span | None:
    """All jobs at once: a study keeps what its stages keep."""
    return total(None if stage.disk_bytes is None else stage.disk_bytes.times(stage.jobs) for stage in stages)


def _downloads(study: Study, base: Path) -> dict[str, str]:
    """Names on the hub → how much of them is still to come, as far as the lock beside the study file tells."""
    found = {}
    name = study.model.model_name_or_path
    if name is not None and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        found[name] = "here" if in_hub_cache(name, study.env) else ASK
    for dataset in study.datasets.values():
        if dataset.hub_id is not None:
            found[dataset.hub_id] = ASK
    lock, cache = read_lock(lock_beside(base / study.study, study.study)), hub_cache({**os.environ, **study.env})
    for item in lock.items if lock is not None else ():
        if item.id in found:
            absent = sum(item.files[one.file].size for one in item_problems(item, cache))
            found[item.id] = _to_come(absent, study.estimate.bandwidth_mb_s) if absent else "here"
    return found


def _to_come(absent: int, bandwidth_mb_s: float | None) -> str:
    words = gigabytes(Span.exactly(absent))
    if bandwidth_mb_s is None:
        return f"{words}; estimate.bandwidth_mb_s would tell how long"
    return f"{words}, {hours(Span.exactly(absent / bandwidth_mb_s / 1e6))} at {bandwidth_mb_s:g} MB/s"


def _of_the_study(study: Study, job_s: Span | None) -> list[str]:
    stated = study.estimate.study_total
    if stated is None or job_s is None or job_s.meets(stated, slack=0.1):
        return []
    return [f"the whole study: its jobs come to {hours(job_s)}; stated {hours(Span.between(stated))}"]


def _unknown(plan: Plan, base: Path, stages: Sequence[StageCost], card: Card) -> list[str]:
    """Why numbers are missing, each reason once."""
    reasons: dict[str, list[str]] = {}
    skipped = not_to_time(plan, base)
    for stage in stages:
        first = stage.group.jobs[0].job
        if stage.no_memory:
            reasons.setdefault(f"memory: {stage.no_memory}", []).append(stage.stage)
        for note in stage.memory.notes if stage.memory else ():
            reasons.setdefault(note, []).append(stage.stage)
        if first.id in skipped and stage.evidence in ("", "stated"):
            reasons.setdefault(f"time: {skipped[first.id]}", []).append(stage.stage)
        if stage.steps is None:
            reasons.setdefault("steps: they are counted when the data are here", []).append(stage.stage)
    if card.bytes is None:
        reasons["whether it fits: the card's memory is unknown; state estimate.gpu_memory_gb"] = []
    return [
        f"{', '.join(list(dict.fromkeys(names))[:4])}{'…' * (len(set(names)) > 4)}: {words}" if names else words
        for words, names in reasons.items()
    ]


def fits_in_words(stage: StageCost, card_bytes: float | None) -> str:
    """Whether a stage fits on a card, `unknown` where nobody counted."""
    if stage.memory is None or card_bytes is None:
        return "unknown"
    return {True: "yes", False: "no", None: "perhaps"}[stage.memory.fits(card_bytes)]

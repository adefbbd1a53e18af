"""What was planned when on which slot, and what happened: spans from packing.json and from the journals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunestudy.records.events import last_signs
from tunestudy.report.facts import JobFacts, Settings, StudyFacts
from tunestudy.report.format import duration, plural
from tunestudy.report.values import mapping, number, texts

Ending = Literal["planned", "done", "failed", "interrupted", "running", "lost"]
"""`lost`: nothing tells how it ended; its launcher was killed, too."""
ENDINGS_LEFT: Mapping[str, Ending] = {"running": "running", "done": "done", "failed": "failed"}
"""Of a job's latest attempt whose end no launcher told, by the job's state, which its folder tells; else it is lost."""
_ENDINGS: Mapping[str, Ending] = {
    "job_finished": "done",
    "job_failed": "failed",
    "job_interrupted": "interrupted",
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One attempt at a job, or its place in the plan. Times are unix seconds."""

    job: str
    slot: str
    start: float
    end: float
    ending: Ending
    attempt: int = 1
    variants: tuple[str, ...] = ()
    title: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "slot": self.slot,
            "start": self.start,
            "end": self.end,
            "ending": self.ending,
            "attempt": self.attempt,
            "variants": list(self.variants),
        }


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Both, and the budget."""

    planned: Sequence[Bar]
    happened: Sequence[Bar]
    planned_slots: Sequence[str]
    slots: Sequence[str]
    until: float | None
    """By when `resources.wall_clock` wants all to be done."""
    now: float | None
    """While something runs."""

    @property
    def start(self) -> float:
        return min(bar.start for bar in (*self.planned, *self.happened))

    @property
    def end(self) -> float:
        return max([bar.end for bar in (*self.planned, *self.happened)] + ([self.until] if self.until else []))

    @property
    def text(self) -> str:
        """The picture in words."""
        parts = []
        if self.planned:
            parts.append(f"planned: {_length(self.planned)} on {plural(len(self.planned_slots), 'slot')}")
        if self.happened:
            until = "so far" if self.now else "took"
            parts.append(f"{until}: {_length(self.happened)} on {plural(len(self.slots), 'slot')}")
        for ending, what in (("failed", "failed attempt"), ("interrupted", "interruption"), ("lost", "lost attempt")):
            if count := sum(bar.ending == ending for bar in self.happened):
                parts.append(plural(count, what))
        if again := sum(bar.attempt > 1 for bar in self.happened):
            parts.append(f"{again} started again")
        if self.until is not None and self.happened:
            late = max(bar.end for bar in self.happened) - self.until
            kept = "is kept" if self.now is None else "is not over"
            parts.append(f"the budget {kept}" if late <= 0 else f"the budget is passed by {duration(late)}")
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """For the live page."""
        return {
            "planned": [bar.as_json() for bar in self.planned],
            "happened": [bar.as_json() for bar in self.happened],
            "planned_slots": list(self.planned_slots),
            "slots": list(self.slots),
            "until": self.until,
            "now": self.now,
        }


def timeline(facts: StudyFacts) -> Timeline | None:
    """None when nothing was planned with times and nothing has started."""
    by_id = {job.id: job for job in facts.jobs}
    planned = list(_planned(facts.packing, by_id))
    happened = list(_happened(facts, by_id))
    if not planned and not happened:
        return None
    running = any(bar.ending == "running" for bar in happened)
    return Timeline(
        planned=planned,
        happened=happened,
        planned_slots=_named(texts(facts.packing.get("slots")), planned),
        slots=_named([], happened),
        until=number(facts.packing.get("until")),
        now=facts.gathered_at if running else None,
    )


def _planned(packing: Settings, by_id: Mapping[str, JobFacts]) -> Iterable[Bar]:
    for name, entry in mapping(packing.get("jobs")).items():
        start, end = number(mapping(entry).get("start")), number(mapping(entry).get("end"))
        if start is not None and end is not None and end >= start and name in by_id:
            guess = "" if mapping(entry).get("known", True) else ", a guess"
            title = f"{_who(by_id[name])}: planned for {duration(end - start)}{guess}"
            yield _bar(by_id[name], str(mapping(entry).get("slot")), (start, end), "planned", 1, title)


def _happened(facts: StudyFacts, by_id: Mapping[str, JobFacts]) -> Iterable[Bar]:
    """Attempts in the order in which they began."""
    hosts = _hosts(facts.events)
    several = len(set(hosts.values())) > 1
    ends = {(event.get("job"), event.get("attempt")): event for event in facts.events if event.get("event") in _ENDINGS}
    signs = last_signs(facts.events)
    latest = {event.get("job"): event.get("attempt") for event in facts.events if event.get("event") == "job_started"}
    for event in facts.events:
        job, start = by_id.get(str(event.get("job"))), number(event.get("t"))
        if event.get("event") != "job_started" or job is None or start is None:
            continue
        attempt = int(number(event.get("attempt")) or 1)
        followed = latest[job.id] != event.get("attempt")
        told, sign = ends.get((job.id, event.get("attempt"))), signs.get((job.id, attempt))
        ending: Ending
        if told is None and followed:
            end, ending, why = max(start, sign or start), "lost", ""
        else:
            end, ending, why = _end(job, start, told, facts.gathered_at)
        again = f", attempt {attempt}" if attempt > 1 else ""
        host = f"{hosts.get(str(event.get('writer')), '?')} " if several else ""
        title = f"{_who(job)}{again}: {ending} after {duration(end - start)}{why}"
        yield _bar(job, f"{host}{event.get('slot', '?')}", (start, end), ending, attempt, title)


def _end(job: JobFacts, start: float, told: Settings | None, now: float) -> tuple[float, Ending, str]:
    """Of an attempt; the latest, without an end in the journal, lasts until its last sign of life."""
    if told is not None:
        kind = f" ({told.get('kind')})" if told.get("kind") else ""
        return max(start, number(told.get("t")) or start), _ENDINGS[str(told.get("event"))], kind
    ending = ENDINGS_LEFT.get(job.status, "lost")
    last = now if ending == "running" else number(job.progress.get("t"))
    return max(start, last or start), ending, ""


def _hosts(events: Iterable[Settings]) -> dict[str, str]:
    """Host by the writer of the journal."""
    return {str(event.get("writer")): str(event.get("host")) for event in events if event.get("event") == "run_started"}


def _bar(job: JobFacts, slot: str, span: tuple[float, float], ending: Ending, attempt: int, title: str) -> Bar:
    return Bar(
        job=job.id,
        slot=slot,
        start=span[0],
        end=span[1],
        ending=ending,
        attempt=attempt,
        variants=job.variants,
        title=title,
    )


def _who(job: JobFacts) -> str:
    first, *more = job.variants or ("?",)
    return f"{job.stage}, {first}{f' and {len(more)} more' if more else ''}, seed {job.seed}"


def _named(first: Sequence[str], bars: Iterable[Bar]) -> list[str]:
    """Slots that are named or used, in a lasting order."""
    return list(dict.fromkeys([*first, *sorted({bar.slot for bar in bars}, key=_by_number)]))


def _by_number(name: str) -> tuple[str, float, str]:
    """gpu2 before gpu10."""
    letters = name.rstrip("0123456789")
    digits = name[len(letters) :]
    return letters, float(digits or -1), name


def _length(bars: Sequence[Bar]) -> str:
    return duration(max(bar.end for bar in bars) - min(bar.start for bar in bars))

"""What submissions wrote down about themselves: a life begins with `slurm_started` and, if it can, ends with
`slurm_left`. A submission that SLURM queues again has several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir


@dataclass
class Life:
    """One start of a submission."""

    slurm_id: str
    restart: int
    """0, then counted by SLURM."""
    key: str
    jobs: tuple[str, ...]
    nodes: tuple[str, ...]
    gpus: int
    started: float
    reason: str | None = None
    """Why it left: `time limit`, `stuck`, or the name of an exit code (`done`, `jobs_failed`, `interrupted`); None when
    it could not say, or runs."""
    ended: float | None = None
    went_on: bool = False
    """Whether any of its jobs came further meanwhile."""


def lives_of(study: StudyDir, slurm_id: str) -> list[Life]:
    """The lives of one submission so far."""
    return [life for life in lives(read_events(study.events)) if life.slurm_id == slurm_id]


def lives(events: Sequence[Mapping[str, Any]]) -> list[Life]:
    """All lives that the journal tells of, those of one submission in order, whatever the clocks of nodes say."""
    found: dict[tuple[str, int], Life] = {}
    ends = {(event["slurm_id"], event["restart"]): event for event in events if event["event"] == "slurm_left"}
    for event in events:
        if event["event"] == "slurm_started":
            place = event["slurm_id"], event["restart"]
            told = {name: event[name] for name in ("slurm_id", "restart", "key", "gpus")}
            life = Life(**told, jobs=tuple(event["jobs"]), nodes=tuple(event["nodes"]), started=event["t"])
            if left := ends.get(place):
                life.reason, life.ended = left["reason"], left["t"]
                life.went_on = left.get("went_on", False)
            found[place] = life
    return sorted(found.values(), key=lambda life: life.restart)

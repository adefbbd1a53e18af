"""Sources of training data: what was realised of each, and how well each was learnt."""

from dataclasses import dataclass

from tunestudy.report.facts import StudyFacts, mean
from tunestudy.report.overfit import finite_points
from tunestudy.report.values import mapping, number, numbers

_PREFIX = "loss/"


@dataclass(frozen=True, kw_only=True)
class Realised:
    """What one stage took from one source; None where it was not recorded."""

    stage: str
    source: str
    language: str
    read: float | None
    samples: float | None
    tokens: float | None
    target_tokens: float | None
    weight: float | None
    realised_share: float | None
    rejected: tuple[tuple[str, int], ...]
    """Reason and number."""
    lost: tuple[tuple[str, int], ...] = ()
    """The same for records whose image could not be fetched."""


def realised(facts: StudyFacts) -> list[Realised]:
    """One row per stage and source; jobs that prepared the same data say the same and appear once."""
    rows = [
        _row(job.stage, name, mapping(told))
        for job in facts.jobs
        for name, told in mapping(job.data.get("sources")).items()
    ]
    return list(dict.fromkeys(rows))


def _row(stage: str, name: str, told: dict[str, object]) -> Realised:
    rejected = {reason: int(n) for reason, n in numbers(told.get("rejected")).items() if n}
    return Realised(
        stage=stage,
        source=name,
        language=str(told.get("language") or ""),
        read=number(told.get("read")),
        samples=number(told.get("samples")),
        tokens=number(told.get("tokens")),
        target_tokens=number(told.get("target_tokens")),
        weight=number(told.get("weight")),
        realised_share=number(told.get("realised_share")),
        rejected=tuple(rejected.items()),
        lost=tuple((reason, int(n)) for reason, n in numbers(told.get("lost")).items() if n),
    )


@dataclass(frozen=True, kw_only=True)
class SourceLosses:
    """Last held-out loss of a variant on every source, means over seeds."""

    variant: str
    losses: dict[str, float | None]


def source_losses(facts: StudyFacts) -> list[SourceLosses]:
    """Empty unless a last stage was evaluated on more than one source."""
    logs = {variant: [job.eval_log for job in facts.last_jobs(variant)] for variant in facts.variants}
    columns = sorted({name for of in logs.values() for log in of for name in log if name.startswith(_PREFIX)})
    if not columns:
        return []
    rows = []
    for variant, of in logs.items():
        last = {name: [finite_points(log, name)[-1][1] for log in of if finite_points(log, name)] for name in columns}
        rows.append(
            SourceLosses(
                variant=variant, losses={name.removeprefix(_PREFIX): mean(found) for name, found in last.items()}
            )
        )
    return rows

"""The curriculum of a stage, settled before its first step: from the order's settings to every sample's place."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tunestudy.config.order import ColumnOrder, Curriculum, ScoreOrder
from tunestudy.data.corpus import Corpus
from tunestudy.data.curriculum import (
    Places,
    Value,
    column_folder,
    column_values,
    numbers_of,
    places_of,
    read_values,
    write_values,
)
from tunestudy.data.drawn import samples_drawn
from tunestudy.data.prepare import PreparedData, wanted_data
from tunestudy.data.sources import Folders
from tunestudy.models.loaded import LoadedModel
from tunestudy.records.atomic import write_json
from tunestudy.records.lease import Lease
from tunestudy.records.manifest import problems
from tunestudy.train.run import Material, Task
from tunestudy.train.scores import open_scorer, scores_of

Values = tuple[list[Value], dict[str, Any]]


def settle_places(task: Task, loaded: LoadedModel, model: Any, data: PreparedData) -> Places | None:
    """Every sample's place in the stage's curriculum; None for an order that is none. Every rank calls.

    `model`: the stage's own, as it is before its first step. Raises `scores.AskedToLeaveError` when asked to stop.
    """
    order = task.settings.order
    if isinstance(order, ColumnOrder):
        values, facts = column_of(task, order, data)
    elif isinstance(order, ScoreOrder):
        values, facts = task.progress.during("score", lambda: score_of(task, order, loaded, model, data))
    else:
        return None
    found = Places(places_of(values, data.train, order), numbers_of(values), {"by": order.by, **facts})
    if task.world.rank == 0:
        for line in remarks(facts, len(data.train)):
            print(line, flush=True)
    return found


def column_of(task: Task, order: ColumnOrder, data: PreparedData) -> Values:
    """A column's values, read by rank 0 of whichever job comes first."""
    study, stage = task.folder.study, task.job.stage
    folder = column_folder(study.column_cache, data.report["cache"], order.column)
    with held_by_rank_0(task, f"column-{folder.name}"):
        if task.world.rank == 0 and problems(folder):
            wanted = wanted_data(task.job, task.settings, Folders.of(task.job, task.folder))
            values, facts = column_values(
                data.train, order.column, wanted.datasets, wanted.folders, key=f"stages.{stage}.order.column"
            )
            write_values(folder, data.train, values, {"column": order.column, **facts})
        task.world.after_rank_0()
    return read_values(folder, data.train)


def score_of(task: Task, order: ScoreOrder, loaded: LoadedModel, model: Any, data: PreparedData) -> Values:
    """A frozen model's scores, made by all ranks together unless a job before has left them.

    What it cannot score is harder than all the rest: it is too long for the scorer.
    """
    scorer = open_scorer(task, order, loaded, model, data)
    folder = task.folder.study.score_cache / f"{scorer.name}-{data.report['cache'][:16]}"
    scored, facts = kept(task, folder, data.train, lambda: scores_of(task, scorer, data.train))
    return [math.inf if value is None else value for value in scored], facts


def kept(task: Task, folder: Path, corpus: Corpus, make: Callable[[], tuple[Any, dict[str, Any]]]) -> Values:
    """What a sealed folder of values holds, made by all ranks together where it is missing."""
    world = task.world
    with held_by_rank_0(task, f"score-{folder.name}"):
        world.after_rank_0()  # another job may be at it, for longer than a collective waits
        if not world.from_rank_0(int(world.rank == 0 and not problems(folder))):
            values, facts = make()
            if world.rank == 0:
                write_values(folder, corpus, values, facts)
            return values, facts
    return read_values(folder, corpus)


@contextmanager
def held_by_rank_0(task: Task, name: str) -> Iterator[None]:
    """A lease of the study on rank 0, waited for however long; nothing on the others."""
    if task.world.rank > 0:
        yield
        return
    with Lease.acquire(task.folder.study.leases / name, wait_s=math.inf):
        yield


def remarks(facts: dict[str, Any], count: int) -> list[str]:
    """What a person should know of how samples were ordered."""
    lines = [
        f"{name}: {sum(reasons.values())} samples left out, which have no place in the order "
        f"({', '.join(f'{reason} {number}' for reason, number in reasons.items())}; such as {facts['examples'][0]})"
        for name, reasons in facts.get("rejected", {}).items()
    ]
    if facts.get("without_score"):
        lines.append(f"{facts['without_score']} of {count} samples are too long for the scorer and count as hardest")
    return lines


def tell_drawn(task: Task, data: PreparedData, material: Material, places: Places | None) -> None:
    """Add to data.json how samples were ordered, how many an epoch takes, and which ones the stage draws."""
    if task.world.rank > 0:
        return
    per_epoch = material.schedule.samples_per_epoch
    report = dict(data.report)
    for name, count in zip(data.train.sources, per_epoch, strict=True):
        if name in report["sources"]:
            told = {"samples_per_epoch": count, "realised_share": count / sum(per_epoch)}
            report["sources"] = {**report["sources"], name: {**report["sources"][name], **told}}
    if places is not None:
        report["order"] = {**places.facts, "samples": int(np.count_nonzero(places.of_samples >= 0))}
    report["drawn"] = samples_drawn(material.schedule, data.train, material.total_steps)
    write_json(task.folder.data_report, report)


def stand_in_places(task: Task, corpus: Corpus) -> Places | None:
    """Places that cost nothing, as many as the curriculum has: for timing steps, where the order does not matter."""
    order = task.settings.order
    return Places(places_of(list(range(len(corpus))), corpus, order)) if isinstance(order, Curriculum) else None

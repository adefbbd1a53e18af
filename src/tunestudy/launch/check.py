"""`tunestudy check`: everything that a study needs, looked at in seconds, before a GPU is held."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.ray.place import RayPlace
from tunestudy.preflight.hosts import files_named
from tunestudy.preflight.inputs import NOTHING_TO_DO
from tunestudy.preflight.points import Point, answer_of, not_needed, ok, refusal, refused, warning
from tunestudy.preflight.readiness import readiness
from tunestudy.records.layout import StudyDir
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.problems import CombinedError

TORCH_FACTS = "tunestudy.train.torch_facts"
TORCH_PATIENCE_S = 120.0
MARK = "torch-facts "
_COLOURS = {"ok": "green", "warning": "yellow", "refused": "bold red", "not needed": "dim"}
_FILE_WIDTH = 150
_NARROW = 90
"""Columns of a terminal below which a point takes several lines."""


def check_study(loaded: LoadedStudy, results: Path, *, deep: bool = False, as_json: bool = False) -> Exit:
    """Print the checklist; exit code 3 when a point refuses. `deep` also asks torch, which takes some seconds."""
    points = all_points(loaded, results, deep=deep)
    counts = Counter[str](point.state for point in points)
    if as_json:
        told: dict[str, Any] = {"study": loaded.study.study, "ready": not counts["refused"], "counts": dict(counts)}
        print(json.dumps({**told, "points": [point.as_json() for point in points]}, indent=1, ensure_ascii=False))
    else:
        show(points, Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH))
        print(verdict(counts))
    return Exit.PREFLIGHT_REFUSED if counts["refused"] else Exit.DONE


def all_points(loaded: LoadedStudy, results: Path, *, deep: bool) -> list[Point]:
    """The plan and the slots, which come of it, then everything that is asked of the machine."""
    planned: list[Point] = []
    unfinished: list[Job] | None = None
    try:
        plan = make_plan(loaded, results)
        unfinished = [planned.job for planned in plan.jobs if planned.status != "done"]
        planned += plan_points(plan, len(unfinished))
    except StudyError as error:
        planned.append(refused("plan", str(error), "see `tunestudy plan`"))
    asked = readiness(loaded, unfinished, StudyDir(results / loaded.study.study))
    if unfinished == []:
        planned.append(not_needed("slots", NOTHING_TO_DO))
    elif loaded.study.resources.executor != "ray" or not any(_refuses(one, "executor") for one in asked):
        planned += slot_points(loaded)
    return [*planned, *asked, *(deep_points() if deep else ())]


def _refuses(point: Point, check: str) -> bool:
    return point.check == check and point.state == "refused"


def plan_points(plan: Plan, todo: int) -> Iterator[Point]:
    """How much is to do; and whether the results folder holds jobs, and none of this plan's."""
    count = f"{len(plan.jobs)} job{'s' * (len(plan.jobs) != 1)}"
    yield ok("plan", f"{count}, {f'{todo} to do' if todo else 'all done: `run` reports them'}")
    if plan.orphans and not any(plan.folder.job(one).root.is_dir() for one in plan.by_id):
        others = f"{len(plan.orphans)} job{'s' * (len(plan.orphans) > 1)}"
        told = f"{plan.folder.root} holds {others}, none of them of this study as it is now"
        cure = "`tunestudy plan` tells what changed; if they are another study's, rename `study:` or use --results"
        yield warning("earlier results", told, cure)


def slot_points(loaded: LoadedStudy) -> Iterator[Point]:
    """Whether one job of the study fits where `run` would start it, and how many at a time, as `run` finds out.

    A Ray cluster is joined for that, which takes some seconds.
    """
    resources = loaded.study.resources
    if resources.executor == "slurm":
        yield ok("slots", "SLURM places the jobs")
        return
    try:
        slots = find_slots(resources) if resources.executor == "local" else ray_slots(loaded)
    except StudyError as error:
        errors = error.errors if isinstance(error, CombinedError) else [error]
        yield from (refusal("slots", str(one)) for one in errors)
        return
    kind = "GPU" if slots[0].devices else "CPU"
    here = "over all hosts" if resources.is_spread else f"on this machine ({kind})"
    where = here if resources.executor == "local" else "on the Ray cluster"
    yield ok("slots", f"{len(slots)} at a time {where}, ranks per job: {resources.ranks}")


def ray_slots(loaded: LoadedStudy) -> Sequence[Slot]:
    """What the cluster can do at a time. StudyError where it cannot do it."""
    place = RayPlace(loaded.study.resources, files_named(loaded))
    try:
        return place.slots
    finally:
        place.close()


def deep_points() -> list[Point]:
    """What a short process of the worker plane finds: torch imported, and each GPU given a little work."""
    answer = answer_of([sys.executable, "-m", TORCH_FACTS], patience_s=TORCH_PATIENCE_S)
    line = next((line for line in answer.text.splitlines() if line.startswith(MARK)), None)
    if answer.state != "said" or line is None:
        return [
            refused("torch", answer.text.strip()[-300:] or answer.state, "reinstall torch for this machine's driver")
        ]
    found: dict[str, Any] = json.loads(line.removeprefix(MARK))
    told = f"{found['torch']} imported, CUDA {found['cuda'] or 'none'}, NCCL {found['nccl'] or 'none'}"
    points = [ok("torch", told)]
    for package, problem in found["broken"].items():
        cure = f"pip uninstall {package}, or install the build for this torch"
        points.append(refused(package, f"installed but broken: {problem}", cure))
    for gpu in found["gpus"]:
        name = f"GPU {gpu['index']}"
        if gpu["problem"]:
            points.append(refused(name, f"{gpu['name']}: {gpu['problem']}", "see `nvidia-smi`, `dmesg | grep Xid`"))
        else:
            free = f"{gpu['free_bytes'] / 2**30:.1f} of {gpu['total_bytes'] / 2**30:.1f} GiB free"
            points.append(ok(name, f"{gpu['name']}: multiplies, {free}, bfloat16 {'yes' if gpu['bf16'] else 'no'}"))
    if not found["gpus"] and found["cuda"]:
        points.append(warning("GPUs of torch", "torch sees none", "is CUDA_VISIBLE_DEVICES empty, the driver too old?"))
    return points


def show(points: Sequence[Point], console: Console) -> None:
    """A table, or where columns would be too narrow for words, a paragraph per point."""
    if console.width < _NARROW:
        for point in points:
            console.print(Text(f"{point.state}: ", style=_COLOURS[point.state]), point.check, sep="", markup=False)
            for line in filter(None, (point.found, point.remedy and f"→ {point.remedy}")):
                console.print(f"   {line}", markup=False, highlight=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold", ratio=3)
    table.add_column("remedy", overflow="fold", ratio=2)
    for point in points:
        style = _COLOURS[point.state]
        cells = (point.check, point.state, point.found, point.remedy)
        table.add_row(*(Text(cell, style=style if i == 1 or style == "dim" else "") for i, cell in enumerate(cells)))
    console.print(table)


def verdict(counts: Counter[str]) -> str:
    """The last line."""
    told = " · ".join(
        f"{counts[state]} {state}" for state in ("ok", "not needed", "warning", "refused") if counts[state]
    )
    return f"{told}: " + ("not ready, `run` would fail" if counts["refused"] else "ready to run")

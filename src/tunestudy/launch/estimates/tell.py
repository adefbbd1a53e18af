"""What `plan --estimate` prints and `run` says before it starts: evidence gathered, and told."""

import json
import sys
import time
from collections.abc import Collection
from pathlib import Path

from tunestudy.config.errors import StudyError
from tunestudy.launch.estimates.card import card_of
from tunestudy.launch.estimates.costs import put_together, remember_costs
from tunestudy.launch.estimates.memory import foresee_missing
from tunestudy.launch.estimates.outlook import make_outlook, outlook_lines
from tunestudy.launch.estimates.probe import probe_missing
from tunestudy.launch.estimates.schedule import Schedule, budget_lines, remember_packing, schedule_lines
from tunestudy.launch.estimates.words import cost_lines
from tunestudy.records import clock
from tunestudy.study.estimates.timing import remember_estimates
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.show import plan_lines

STATE_IT = "memory was counted all the same, and times follow from `estimate: {step_s: 3}` where you know them"


def show_plan(loaded: LoadedStudy, results: Path, *, estimate: bool, as_json: bool) -> None:
    """What `tunestudy plan` prints: the plan, how long it takes as far as that is known, and when which job runs."""
    plan = make_plan(loaded, results)
    notes = gather_evidence(plan, loaded.path.parent) if estimate else []
    plan = make_plan(loaded, results) if estimate else plan  # probes have counted the data
    outlook = make_outlook(plan)
    costs = None
    if estimate:
        costs = put_together(plan, loaded.path.parent, now=outlook.now, notes=notes)
    if as_json:
        found = {} if costs is None else {"estimate": costs.as_json()}
        print(json.dumps({**plan.as_json(), "time": outlook.as_json(), **found}, indent=1, ensure_ascii=False))
        return
    told = [] if costs is None else cost_lines(costs)
    picture, budget = schedule_lines(outlook.schedule, plan), budget_lines(outlook.schedule, plan)
    print("\n".join([*plan_lines(plan), *outlook_lines(outlook, loaded.typed), *picture, *budget, *told]))


def gather_evidence(plan: Plan, base: Path) -> list[str]:
    """Count every stage's memory and time its steps, as far as that is possible here; what went wrong, in words."""
    wrong = foresee_missing(plan, card_of(plan.study).device)
    try:
        return [*([wrong] if wrong else []), *probe_missing(plan, base)]
    except StudyError as error:
        return [*([wrong] if wrong else []), f"no step was timed here: {error.message}; {STATE_IT}"]


def tell_time(
    plan: Plan, loaded: LoadedStudy, *, estimate: bool, quiet: bool, only: Collection[str] | None = None
) -> Schedule:
    """Before a run: gather evidence when asked to, say what it means, and keep it for the report.

    `only`: ids of the jobs that are meant to run. Returns the packing of those.
    """
    for line in gather_evidence(plan, loaded.path.parent) if estimate else ():
        print(line, file=sys.stderr)
    remember_costs(plan, put_together(plan, loaded.path.parent, now=time.time()))
    outlook = make_outlook(plan, only=only)
    remember_estimates(plan, outlook.times, now=outlook.now)
    remember_packing(plan, outlook.schedule, now=clock.now(plan.folder.root))
    budget = budget_lines(outlook.schedule, plan)
    verdict = outlook.schedule.verdict
    if quiet:
        if verdict is not None and not verdict.fits:
            print("\n".join(budget).lstrip(), end="\n\n", file=sys.stderr, flush=True)
        return outlook.schedule
    lines = []
    if any(seconds is not None for seconds in outlook.left.values()) and any(outlook.left.values()):
        lines += outlook_lines(outlook, loaded.typed)
    lines += budget
    if lines:
        print("\n".join(lines).lstrip(), end="\n\n", flush=True)
    return outlook.schedule

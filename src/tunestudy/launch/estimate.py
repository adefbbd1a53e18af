"""How long a study will take on this machine: evidence gathered, and told before anything starts."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.launch.cost_words import cost_lines
from tunestudy.launch.costs import put_together, remember_costs
from tunestudy.launch.foresee import card_of, foresee_missing, not_to_time
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.schedule import Schedule, budget_lines, make_schedule, remember_packing, schedule_lines
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import Command, ask_to_stop, job_environment, kill, start
from tunestudy.records.atomic import read_json, remove_tree, write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import JobDir
from tunestudy.records.redact import redact
from tunestudy.report.format import duration
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan
from tunestudy.study.show import MAX_ROWS, plan_lines
from tunestudy.study.timing import JobTime, expected_times, remember_estimates, seconds_left, speed_key

PROBE = "tunestudy.train.probe"
_GRACE_S = 10.0
STATE_IT = "memory was counted all the same, and times follow from `estimate: {step_s: 3}` where you know them"


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is known of a study's time before it goes on."""

    times: Mapping[str, JobTime]
    left: Mapping[str, float | None]
    """Seconds that each job still takes."""
    schedule: Schedule
    experiments: Sequence["Experiment"]
    now: float

    @property
    def slots(self) -> int:
        return len(self.schedule.slots)

    @property
    def wall_s(self) -> float | None:
        """Until everything is done; None when some job's time is unknown."""
        return self.schedule.makespan_s

    @property
    def done_at(self) -> float | None:
        return None if self.wall_s is None else self.now + self.wall_s

    @property
    def without_benchmarks(self) -> bool:
        """Whether a time lacks its benchmarks: none has been scored yet."""
        return any(time.benchmark_s is None for name, time in self.times.items() if self.left[name])

    def as_json(self) -> dict[str, Any]:
        return {
            "jobs": {
                name: {"expected_s": time.seconds, "left_s": self.left[name], "evidence": time.evidence}
                for name, time in self.times.items()
            },
            "experiments": [experiment.as_json() for experiment in self.experiments],
            "slots": self.slots,
            "left_s": self.wall_s,
            "done_at": self.done_at,
            "benchmarks_included": not self.without_benchmarks,
            **self.schedule.as_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A variant over all its seeds; shared stages count in each that uses them."""

    variant: str
    seeds: int
    total_s: float | None
    left_s: float | None
    evidence: str

    def as_json(self) -> dict[str, Any]:
        return {"variant": self.variant, "expected_s": self.total_s, "left_s": self.left_s, "evidence": self.evidence}


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
    remember_packing(plan, outlook.schedule, now=outlook.now)
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


def make_outlook(plan: Plan, *, only: Collection[str] | None = None) -> Outlook:
    """What the evidence at hand says; `only`: the schedule is of these jobs."""
    times = expected_times(plan, ranks=plan.study.resources.ranks, host=host_name())
    left = {planned.job.id: seconds_left(planned, times[planned.job.id]) for planned in plan.jobs}
    return Outlook(
        times=times,
        left=left,
        schedule=make_schedule(plan, times, left, only=only),
        experiments=list(_experiments(plan, times, left)),
        now=time.time(),
    )


def _experiments(plan: Plan, times: Mapping[str, JobTime], left: Mapping[str, float | None]) -> Iterator[Experiment]:
    jobs: dict[str, list[Job]] = {variant: [] for variant in plan.study.variants}
    for planned in plan.jobs:
        for variant in planned.job.variants:
            jobs[variant].append(planned.job)
    for variant, own in jobs.items():
        yield Experiment(
            variant=variant,
            seeds=len({job.seed for job in own}),
            total_s=_sum([times[job.id].seconds for job in own]),
            left_s=_sum([left[job.id] for job in own]),
            evidence=_evidence([times[job.id].evidence for job in own]),
        )


def _evidence(kinds: Sequence[str | None]) -> str:
    known = sorted({kind for kind in kinds if kind})
    lacking = f"; nothing is known of {kinds.count(None)} of its {len(kinds)} jobs" if None in kinds else ""
    return (f"from {' and '.join(known)}" if known else "") + (lacking if known else lacking.removeprefix("; "))


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value for value in values if value)


def outlook_lines(outlook: Outlook, study: str) -> list[str]:
    """The lines that `plan` and `run` print."""
    missing = [name for name, seconds in outlook.left.items() if seconds is None]
    if len(missing) == len(outlook.left):
        return [
            "",
            f"Time: unknown, nothing like it has run here; `tunestudy plan {study} --estimate` times a few steps",
        ]
    lines = ["", "Time (all seeds; shared stages count in each):"]
    shown = outlook.experiments[:MAX_ROWS]
    wide = max(len(experiment.variant) for experiment in shown)
    for one in shown:
        amount = "?" if one.total_s is None else duration(one.total_s)
        left = "" if one.left_s in (one.total_s, None) else f", {duration(one.left_s)} left"
        lines.append(f"  {one.variant.ljust(wide)}  {amount}{left}  ({one.evidence})")
    return [*lines, f"  {_together(outlook, missing)}"]


def _together(outlook: Outlook, missing: Sequence[str]) -> str:
    if outlook.done_at is None or outlook.wall_s is None:
        return f"together: unknown, {len(missing)} jobs have no evidence yet"
    slots = f"{outlook.slots} at a time" if outlook.slots > 1 else "one at a time"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(outlook.done_at))
    lacking = "; benchmarks come on top, none has been timed yet" if outlook.without_benchmarks else ""
    return f"together: {duration(outlook.wall_s)} left with jobs {slots}, done about {when}{lacking}"


def probe_missing(plan: Plan, base: Path) -> list[str]:
    """Time some steps of every stage that is still to do and has no evidence; returns what went wrong, in words.

    `base` is where the study file lies. Ctrl-C ends the probe that runs and leaves those that are done.
    StudyError when this machine has no slot for the study's jobs.
    """
    resources = plan.study.resources
    missing = _without_evidence(plan, base)
    if not missing:
        return []
    slot = find_slots(resources)[0]
    command = command_for(resources, base, PROBE)
    failed: list[str] = []
    for key, job in missing.items():
        print(f"timing steps of {job.stage} ({', '.join(job.variants[:3])}) …", file=sys.stderr, flush=True)
        failed += time_job(plan, job, key, slot, command)
    return failed


def _without_evidence(plan: Plan, base: Path) -> dict[str, Job]:
    """A probe's name → the first job of the stage that it is for."""
    ranks, host = plan.study.resources.ranks, host_name()
    times = expected_times(plan, ranks=ranks, host=host)
    skipped = not_to_time(plan, base)
    asked = {speed_key(one.job, ranks=ranks, host=host) for one in plan.jobs if one.job.id in skipped}
    missing: dict[str, Job] = {}
    for planned in plan.jobs:
        job = planned.job
        idle = job.settings is None or job.settings.trains_nothing
        if idle or planned.status in ("done", "evaluate") or times[job.id].train_s is not None:
            continue
        key = speed_key(job, ranks=ranks, host=host)
        if key not in asked:
            missing.setdefault(key, job)
    return missing


def time_job(plan: Plan, job: Job, key: str, slot: Slot, command: Command) -> list[str]:
    """Run one probe in a folder of its own, which is removed; its result stays."""
    result = plan.folder.probe(key)
    folder = JobDir(result.with_suffix(""))
    remove_tree(folder.root)
    try:
        write_json(folder.job_json, _from_the_start(job).model_dump(mode="json"))
        began = time.monotonic()
        process = start(
            command(folder, slot.ranks),
            job_environment(plan.study.env, slot.environment, attempt=1),
            folder.launch_log,
        )
        code = wait_for(process)
        measured = folder.root / "probe.json"
        if code == 0 and measured.exists():
            told = read_json(measured)
            write_json(result, {**told, "start_s": round(max(0.0, time.monotonic() - began - told["inside_s"]), 3)})
            return []
        return [f"{job.stage} ({job.variants[0]}) could not be timed: {last_line(folder.launch_log)}"]
    finally:
        remove_tree(folder.root)


def _from_the_start(job: Job) -> Job:
    """The job as if its stage were the first: the weights before it do not change its speed."""
    assert job.settings is not None, "only a training stage has steps"
    settings = job.settings.model_copy(update={"init": "base"})
    return job.model_copy(update={"id": f"probe-{job.id}", "parents": (), "settings": settings, "evaluations": {}})


def wait_for(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait()
    except BaseException:
        ask_to_stop(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        kill(process.pid)
        raise


def last_line(log: Path) -> str:
    """The error that ended a rank, as far as its log tells: torchrun's own lines come after it."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    told = [line for line in lines if "Error" in line and "ChildFailedError" not in line and "torch/" not in line]
    return redact((told or lines or ["it left no message"])[-1].strip()[:300])

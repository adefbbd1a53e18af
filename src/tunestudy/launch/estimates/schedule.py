"""When which job of a study will run, and whether that fits into its budget: the packing of what is left, in words."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tunestudy.launch.estimates.budget import Serves, Verdict, judge
from tunestudy.launch.estimates.gantt import gantt_lines
from tunestudy.launch.local import Slot, planned_slots
from tunestudy.launch.queue import seats_of, with_guesses
from tunestudy.records.atomic import read_object, write_json
from tunestudy.report.format import duration, listing, plural
from tunestudy.study.estimates.timing import Alike, JobTime, alike, training_left
from tunestudy.study.packing.dispatch import Work
from tunestudy.study.packing.pack import Packing, pack
from tunestudy.study.plan import Plan, PlannedJob
from tunestudy.study.state import folders_on_disk

CONTEXT_MB = 600.0
"""GPU memory of a process beyond what its tensors take: CUDA's context and libraries."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The packing of the jobs that are left, as far as times are known."""

    works: Mapping[str, Work]
    """By job id; of jobs that are not done."""
    slots: Sequence[Slot]
    packing: Packing | None
    """None: nothing is left, or no time is known."""
    wall_clock_s: float | None
    """The budget."""
    verdict: Verdict | None
    untimed: int
    """Jobs with benchmarks of which none has been timed yet: their time is not in it."""

    @property
    def makespan_s(self) -> float | None:
        """Until everything is done; None when some job's time is unknown."""
        if not self.works:
            return 0.0
        return self.packing.makespan if self.packing and not self.packing.guessed else None

    def as_json(self) -> dict[str, Any]:
        return {
            "packing": self.packing.as_json() if self.packing else None,
            "budget": self.verdict.as_json() if self.verdict else None,
        }


def make_schedule(
    plan: Plan,
    times: Mapping[str, JobTime],
    left: Mapping[str, float | None],
    *,
    only: Collection[str] | None = None,
) -> Schedule:
    """Pack what is left of a plan. `times` and `left` by job id; `only`: ids of the jobs that are meant."""
    resources = plan.study.resources
    planned = [one for one in plan.jobs if one.status != "done" and (only is None or one.job.id in only)]
    memory = memory_of(plan)
    works = [_work(one, plan, times[one.job.id], left[one.job.id], memory.get(one.job.id)) for one in planned]
    slots = planned_slots(resources, smallest_mb=smallest_mb(works))
    untimed = sum(bool(one.job.evaluations) and times[one.job.id].benchmark_s is None for one in planned)
    packing = verdict = None
    if any(work.known for work in works):
        guessed = with_guesses(works)
        packing = pack(guessed, seats_of(slots))
        verdict = _verdict(plan, planned, guessed, slots, packing)
    return Schedule(
        works={work.id: work for work in works},
        slots=slots,
        packing=packing,
        wall_clock_s=resources.wall_clock,
        verdict=verdict,
        untimed=untimed,
    )


def smallest_mb(works: Sequence[Work]) -> float | None:
    """GPU memory of the smallest job; None where nothing is known."""
    return min((work.memory_mb for work in works if work.memory_mb is not None), default=None)


def memory_of(plan: Plan) -> dict[str, float]:
    """GPU memory (MiB) that a process of each job takes, by id: measured at other seeds, else estimated."""
    on_disk = folders_on_disk(plan.folder)
    peaks: dict[Alike, float] = {}
    for planned in plan.jobs:
        job = planned.job
        if job.id in on_disk and job.settings is not None:
            peak = read_object(plan.folder.job(job.id).result_json).get("peak_memory_mb")
            if isinstance(peak, int | float):
                key = alike(plan, job)
                peaks[key] = max(peaks.get(key, 0.0), float(peak))
    estimates = read_object(plan.folder.estimates)
    found: dict[str, float] = {}
    for planned in plan.jobs:
        entry = estimates.get(planned.job.id)
        estimated = entry.get("memory_mb") if isinstance(entry, dict) else None
        known = peaks.get(alike(plan, planned.job)) if planned.job.settings is not None else None
        known = known if known is not None else estimated
        if isinstance(known, int | float):
            found[planned.job.id] = float(known) + CONTEXT_MB
    return found


def _work(planned: PlannedJob, plan: Plan, time: JobTime, left: float | None, memory_mb: float | None) -> Work:
    job = planned.job
    trained_s = training_left(planned, time) or 0.0
    return Work(
        id=job.id,
        seconds=left or 0.0,
        weights_s=None if left is None else min(trained_s, left),
        needs=job.needs,
        priority=max((plan.study.variants[name].priority for name in job.variants), default=0),
        memory_mb=memory_mb,
        known=left is not None,
    )


def _verdict(
    plan: Plan, planned: Sequence[PlannedJob], works: Sequence[Work], slots: Sequence[Slot], packing: Packing
) -> Verdict | None:
    study = plan.study
    if study.resources.wall_clock is None:
        return None
    names = list(study.variants)
    baseline = study.report.baseline if study.report.baseline in study.variants else names[0]
    last_first = sorted(names, key=lambda name: (study.variants[name].priority, -names.index(name)))
    return judge(
        works,
        seats_of(slots),
        packing,
        wall_clock_s=study.resources.wall_clock,
        serves={
            one.job.id: Serves(variants=one.job.variants, seed=None if one.job.settings is None else one.job.seed)
            for one in planned
        },
        expendable=[name for name in last_first if name != baseline],
        seeds=study.seeds,
    )


def schedule_lines(schedule: Schedule, plan: Plan) -> list[str]:
    """The picture that `plan` shows; nothing when no time is known or nothing is left."""
    if schedule.packing is None or not schedule.packing.makespan:
        return []
    picture = gantt_lines(
        schedule.packing, [planned.job for planned in plan.jobs], length=duration(schedule.packing.makespan)
    )
    return ["", "Schedule:", *picture]


def budget_lines(schedule: Schedule, plan: Plan) -> list[str]:
    """Whether the study keeps to `resources.wall_clock`, and what would have to give; empty without a budget."""
    if schedule.wall_clock_s is None or not schedule.works:
        return []
    budget = f"Budget of {duration(schedule.wall_clock_s)}"
    verdict = schedule.verdict
    if verdict is None:
        return ["", f"{budget}: cannot be judged, no job's time is known; --estimate times a few steps"]
    on = f"{duration(verdict.makespan_s)} on {plural(verdict.slots, 'slot')}"
    if verdict.fits:
        lines = [f"{budget}: kept, {duration(-verdict.over_s)} are left ({on})"]
    else:
        lines = [f"{budget}: NOT kept, {duration(verdict.over_s)} too long ({on})", *_what_would_give(verdict, plan)]
    return ["", *lines, *_caveats(schedule)]


def _what_would_give(verdict: Verdict, plan: Plan) -> list[str]:
    per_slot = "; ".join(
        [
            f"no order of the jobs is shorter than {duration(verdict.lower_bound_s)}",
            f"the longest chain takes {duration(verdict.critical_path_s)}: {_chain(verdict, plan)}",
        ]
    )
    ways: list[str] = []
    if verdict.slots_enough is not None:
        ways.append(f"on {_places(verdict.slots_enough, plan)}")
    if verdict.without_variants:
        ways.append(f"without {listing(verdict.without_variants)} (lowest priority first, then last in the file)")
    if verdict.with_seeds:
        seeds = ", ".join(map(str, verdict.with_seeds))
        ways.append(f"with {'seed' if len(verdict.with_seeds) == 1 else 'seeds'} {seeds} alone")
    lines = [f"  {per_slot}"]
    if verdict.slots_enough is None:
        lines.append("  no number of GPUs is enough for that chain")
    nothing = "  no variant and no seed that is left out makes it fit: its jobs themselves must be shorter"
    return [*lines, f"  it would fit {', or '.join(ways)}" if ways else nothing]


def _chain(verdict: Verdict, plan: Plan) -> str:
    """Its stages, and one of the variants that have them all."""
    jobs = {planned.job.id: planned.job for planned in plan.jobs}
    stages = " → ".join(jobs[name].stage for name in verdict.longest_chain)
    last = jobs[verdict.longest_chain[-1]]
    return f"{stages} ({listing(last.variants, 3)}, seed {last.seed})"


def _places(slots: int, plan: Plan) -> str:
    resources = plan.study.resources
    if resources.gpus is None:
        return plural(slots, "slot")
    sharing = resources.share_gpus if isinstance(resources.share_gpus, int) else 1
    return plural(-(-slots // sharing) * resources.ranks * resources.gpus_per_rank, "GPU")


def _caveats(schedule: Schedule) -> list[str]:
    assert schedule.packing is not None
    lines = []
    if guessed := len(schedule.packing.guessed):
        lines.append(f"  {plural(guessed, 'job')} of unknown time taken as the median of the others")
    if schedule.untimed:
        lines.append(f"  benchmarks of {plural(schedule.untimed, 'job')} have not been timed yet and are not in it")
    sharing = {slot.gpus for slot in schedule.slots}
    if len(sharing) < len(schedule.slots):
        lines.append("  times are those of jobs that have a GPU for themselves; jobs that share one are slower")
    return lines


def remember_packing(plan: Plan, schedule: Schedule, *, now: float) -> None:
    """Keep when each job was to run, as foreseen last before it began, so that the report can show it.

    With it is kept what is known of jobs: a SLURM allocation, which reads no study file, packs by that.
    """
    known = read_object(plan.folder.packing)
    works = {"works": [asdict(work) for work in schedule.works.values()]}
    if schedule.packing is None:
        write_json(plan.folder.packing, {**known, **works})
        return
    begun = {planned.job.id for planned in plan.jobs if planned.status != "pending"}
    old = {name: entry for name, entry in (known.get("jobs") or {}).items() if name in begun}
    new = {
        name: {
            "slot": placement.slot,
            "start": round(now + placement.start, 3),
            "end": round(now + placement.end, 3),
            "known": name not in schedule.packing.guessed,
        }
        for name, placement in schedule.packing.placements.items()
        if name not in old
    }
    until = known.get("until") if old else None
    if until is None and schedule.wall_clock_s is not None:
        until = round(now + schedule.wall_clock_s, 3)
    kept = {"t": now, "slots": list(schedule.packing.slots), "until": until, "jobs": {**old, **new}, **works}
    write_json(plan.folder.packing, kept)

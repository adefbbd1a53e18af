"""`tunestudy tune-batch`: which micro-batch, checkpointing and workers fit the card at hand, and which are fastest."""

import json
import math
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tunestudy.config.errors import Exit, StudyError, at
from tunestudy.config.job import Job
from tunestudy.launch.estimates.alone import alone
from tunestudy.launch.estimates.memory import count_memory
from tunestudy.launch.estimates.probe import absent_model, time_job
from tunestudy.launch.local import Slot, find_slots
from tunestudy.launch.outcome import memory_kills
from tunestudy.launch.requests.by_worker import one_at_a_time
from tunestudy.launch.requests.lr_find import chosen_job
from tunestudy.launch.requests.tune_words import Tuning, as_json, open_ends, progress_words, tuning_lines
from tunestudy.launch.requests.tuning import Candidate, Space, Tried, best_of, next_candidate, tried_from
from tunestudy.launch.spread import command_for
from tunestudy.launch.torchrun import Command, job_environment, last_line, start, wait_for
from tunestudy.preflight.checks import check
from tunestudy.records.atomic import read_object, remove_tree, write_json
from tunestudy.records.host import host_name
from tunestudy.records.layout import REQUEST, TRIED, JobDir
from tunestudy.records.snapshot import usable_threads
from tunestudy.study.estimates.costs import memory_key, slicing
from tunestudy.study.estimates.memory import memory_of
from tunestudy.study.estimates.timing import speed_key
from tunestudy.study.load import LoadedStudy
from tunestudy.study.plan import Plan, make_plan

TRY = "tunestudy.train.try_batch"
PROBE = "tunestudy.train.probe"
GIGABYTE = 1e9
LOOK_S = 0.2
FACTS = ("device", "card_bytes", "taken_bytes", "limit_bytes", "longest_row")
"""What a try tells of its card, and of the stage's data."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where candidates of one stage are tried."""

    plan: Plan
    job: Job
    slot: Slot
    command: Command
    key: str
    memory_bytes: int | None
    """Of a card that is smaller than the one at hand; None: all of that."""

    @property
    def folder(self) -> JobDir:
        """Of the try that runs; removed after it."""
        return JobDir(self.plan.folder.tuned(self.key).with_suffix(""))


def tune_batch(
    loaded: LoadedStudy,
    results: Path,
    *,
    variant: str,
    stage: str,
    minutes: float,
    memory_gb: float | None,
    fresh: bool,
    print_json: bool,
) -> None:
    """Search, print what was found, and keep what was measured. Nothing of the study changes.

    `variant`, `stage`: see `chosen_job`. `fresh`: what is known is measured again.
    StudyError when nothing fits, or nothing runs.
    """
    if not (minutes > 0 and (memory_gb is None or 0 < memory_gb < math.inf)):  # nan is neither
        raise StudyError("command line", "--minutes and --memory-gb must be numbers above 0")
    plan = make_plan(loaded, results)
    job = chosen_job(plan, variant, stage).job
    space = space_of(plan, job)
    require_inputs(plan, job)
    require_model(plan, loaded)
    check(loaded, [], plan.folder, starts=True)
    resources = plan.study.resources
    bench = Bench(
        plan=plan,
        job=job,
        slot=find_slots(resources)[0],
        command=command_for(resources, loaded.path.parent, TRY),
        key=tuning_key(plan, job, resources.ranks),
        memory_bytes=None if memory_gb is None else round(memory_gb * GIGABYTE),
    )
    busy = busy_share()
    with one_at_a_time(plan.folder, "tune-batch", bench.key):
        if fresh:
            plan.folder.tuned(bench.key).unlink(missing_ok=True)
        space, known, is_over = search(bench, space, minutes * 60)
    tuning = Tuning(
        job=job, space=space, known=known, ranks=resources.ranks, facts=facts_on_disk(bench), cut=is_over, busy=busy
    )
    best = best_of(known, space)
    if best is not None:
        remember_speed(bench, best, command_for(resources, loaded.path.parent, PROBE))
    if print_json:
        print(json.dumps(as_json(tuning, loaded), indent=1, ensure_ascii=False))
    else:
        print("\n".join(tuning_lines(tuning, loaded)))
    require_something(tuning, loaded)


def busy_share() -> float:
    """Share of this machine's cores that work for others now."""
    return psutil.cpu_percent(interval=LOOK_S) / 100


def space_of(plan: Plan, job: Job) -> Space:
    """What can be tried: the study's effective batch over its ranks decides."""
    settings, ranks = job.training, plan.study.resources.ranks
    assert settings is not None and settings.effective_batch_size and settings.per_device_train_batch_size
    now = Candidate(
        micro_batch=settings.per_device_train_batch_size,
        activation_checkpointing=settings.activation_checkpointing,
        workers=settings.dataloader_num_workers,
    )
    share = settings.effective_batch_size // ranks
    return Space(share=share, now=now, cores=max(1, usable_threads() // ranks))


def require_inputs(plan: Plan, job: Job) -> None:
    """A mixture is made of what other stages learn: without those there is nothing to try."""
    missing = [one.job for one in plan.jobs if one.job.id in job.inputs.values() and one.status == "pending"]
    if missing:
        raise StudyError(
            job.stage,
            f"is made of {missing[0].stage}, which has not run yet; first "
            f"`tunestudy run … --only {missing[0].variants[0]}@{missing[0].stage}`",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )


def require_model(plan: Plan, loaded: LoadedStudy) -> None:
    """Nothing is downloaded by the way: a search has its minutes for trying."""
    name = absent_model(plan, loaded.path.parent)
    if name is not None:
        raise StudyError(
            loaded.locate("model.model_name_or_path"),
            f"{name} is not on this machine, so no step can be tried; first `tunestudy fetch {loaded.typed}`, or "
            f"`tunestudy plan {loaded.typed} --estimate`, which counts memory without any weights",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )


def tuning_key(plan: Plan, job: Job, ranks: int) -> str:
    """Names what was measured: all that decides speed and memory but what is searched for."""
    any_cut = Candidate(micro_batch=1, activation_checkpointing=False, workers=0)
    return speed_key(plan, cut_as(job, any_cut, ranks), ranks=ranks, host=host_name())


def cut_as(job: Job, candidate: Candidate, ranks: int) -> Job:
    """The job with its steps cut like this; its effective batch stays."""
    settings = job.training
    assert settings is not None and settings.effective_batch_size
    return job.model_copy(
        update={
            "settings": settings.model_copy(
                update={
                    "per_device_train_batch_size": candidate.micro_batch,
                    "gradient_accumulation_steps": settings.effective_batch_size // (candidate.micro_batch * ranks),
                    "activation_checkpointing": candidate.activation_checkpointing,
                    "dataloader_num_workers": candidate.workers,
                }
            )
        }
    )


def search(bench: Bench, space: Space, budget_s: float) -> tuple[Space, dict[Candidate, Tried], bool]:
    """What is known when the search ends, and whether time ended it. What earlier searches measured is not repeated."""
    known = known_on_disk(bench)
    if known:
        print(f"{len(known)} measured before, and kept", file=sys.stderr, flush=True)
    began, longest = time.monotonic(), 0.0
    while (candidate := next_candidate(space, known)) is not None:
        if longest and time.monotonic() - began + longest > budget_s:
            return space, known, True
        try:
            tried, facts = try_out(bench, candidate)
        except KeyboardInterrupt:
            print(f"interrupted; {len(known)} measured, and kept: the same command goes on", file=sys.stderr)
            raise
        longest = max(longest, tried.wall_s)
        known[candidate] = tried
        facts = {**facts_on_disk(bench), **facts}
        print(progress_words(tried), file=sys.stderr, flush=True)
        remember(bench, known, facts)
        space = with_counts(bench, space, tried, facts)
        if tried.fits is None and not any(one.fits is not None for one in known.values()):
            place = at(f"stages.{bench.job.stage}")
            raise StudyError(place, f"its steps do not run: {tried.why}", exit_code=Exit.JOBS_FAILED)
    return space, known, False


def with_counts(bench: Bench, space: Space, tried: Tried, facts: Mapping[str, Any]) -> Space:
    """With the bytes that other candidates take at least, counted on the architecture, where memory may be short.

    Once, after the first try: that has told how long rows are, and how far counting is off here.
    """
    largest = space.ladder[-1]
    roomy = tried.fits and tried.peak_bytes * largest <= tried.candidate.micro_batch * tried.limit_bytes
    if space.counted or tried.fits is None or roomy or "longest_row" not in facts:
        return space
    ranks, device = bench.slot.ranks, "cpu" if facts.get("device") == "cpu" else "cuda"
    both = {
        on: cut_as(bench.job, replace(tried.candidate, micro_batch=largest, activation_checkpointing=on), ranks)
        for on in (False, True)
    }
    wrong = count_memory(bench.plan, list(both.values()), device)
    if wrong:
        print(wrong, file=sys.stderr)
    found: dict[tuple[int, bool], float] = {}
    for on, job in both.items():
        key = memory_key(bench.plan, job, ranks=ranks, host=host_name(), device=device, per_host=slicing(bench.plan))
        counted = read_object(bench.plan.folder.foreseen(key))
        for rows in space.ladder if "tokens" in counted else ():
            found[rows, on] = memory_of(counted, probe={"largest": rows * facts["longest_row"]}).peak.low
    own = found.get((tried.candidate.micro_batch, tried.candidate.activation_checkpointing), 0.0)
    scale = min(1.0, tried.peak_bytes / own) if tried.fits and own else 1.0
    return replace(space, counted={way: scale * value for way, value in found.items()})


def try_out(bench: Bench, candidate: Candidate) -> tuple[Tried, dict[str, Any]]:
    """Run one candidate in processes of its own; what came of it, and facts about the card."""
    folder, ranks = bench.folder, bench.slot.ranks
    remove_tree(folder.root)
    try:
        job = alone(bench.plan, cut_as(bench.job, candidate, ranks))
        write_json(folder.job_json, job.model_dump(mode="json"))
        write_json(folder.root / REQUEST, {"memory_bytes": bench.memory_bytes})
        began, killed = time.monotonic(), memory_kills()
        environment = job_environment(bench.plan.study.env, bench.slot.environment, attempt=1)
        code = wait_for(start(bench.command(folder, ranks), environment, folder.launch_log))
        wall_s = round(time.monotonic() - began, 3)
        found = read_object(folder.root / TRIED) or died(folder, code, by_kernel=memory_kills() > killed)
        return tried_from({**asdict(candidate), **found, "wall_s": wall_s}), found
    finally:
        remove_tree(folder.root)


def died(folder: JobDir, code: int, *, by_kernel: bool) -> dict[str, Any]:
    """What can be said of processes that left no word."""
    text = folder.launch_log.read_text(encoding="utf-8", errors="replace") if folder.launch_log.exists() else ""
    if by_kernel and (code == -signal.SIGKILL or "exitcode  : -9" in text):
        return {"fits": False, "why": "the system ended it: memory ran out"}
    return {"fits": None, "why": last_line(folder.launch_log)}


def known_on_disk(bench: Bench) -> dict[Candidate, Tried]:
    """What earlier searches measured, as far as it holds for the card that is asked about."""
    kept = read_object(bench.plan.folder.tuned(bench.key))
    tried = [tried_from(entry) for entry in kept.get("tried", ())]
    if kept.get("memory_bytes") != bench.memory_bytes:
        return {}
    return {one.candidate: one for one in tried if one.fits is not None}


def remember(bench: Bench, known: Mapping[Candidate, Tried], facts: Mapping[str, Any]) -> None:
    """Keep all that is known, after every try."""
    tried = [{**asdict(candidate), **_figures(one)} for candidate, one in known.items()]
    write_json(
        bench.plan.folder.tuned(bench.key),
        {
            "stage": bench.job.stage,
            "variants": list(bench.job.variants),
            "memory_bytes": bench.memory_bytes,
            **{name: facts[name] for name in FACTS if name in facts},
            "tried": tried,
            "t": time.time(),
        },
    )


def _figures(tried: Tried) -> dict[str, Any]:
    return {name: value for name, value in asdict(tried).items() if name != "candidate"}


def facts_on_disk(bench: Bench) -> dict[str, Any]:
    """The device and its memory, as the last try saw them."""
    kept = read_object(bench.plan.folder.tuned(bench.key))
    return {name: value for name, value in kept.items() if name not in ("tried", "t")}


def remember_speed(bench: Bench, best: Tried, command: Command) -> None:
    """Time the best one as `plan --estimate` does, evaluation included: that then knows the stage as it will be."""
    ranks = bench.slot.ranks
    job = cut_as(bench.job, best.candidate, ranks)
    key = speed_key(bench.plan, job, ranks=ranks, host=host_name())
    if not bench.plan.folder.probe(key).exists():
        print("timing the best one for `plan --estimate` …", file=sys.stderr, flush=True)
        for line in time_job(bench.plan, job, key, bench.slot, command):
            print(line, file=sys.stderr)


def require_something(tuning: Tuning, loaded: LoadedStudy) -> None:
    """StudyError when nothing fits, with what would help."""
    if best_of(tuning.known, tuning.space) is None and not tuning.cut:
        raise StudyError(
            loaded.locate(f"stages.{tuning.job.stage}"),
            f"nothing fits: {open_ends(tuning)}",
            exit_code=Exit.PREFLIGHT_REFUSED,
        )

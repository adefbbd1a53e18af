"""The schedule of a study: its picture, its budget, and what is kept of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from two_stages import TWO_STAGES

from tunestudy.launch import local
from tunestudy.launch.estimates.schedule import (
    CONTEXT_MB,
    budget_lines,
    make_schedule,
    remember_packing,
    schedule_lines,
)
from tunestudy.launch.estimates.tell import show_plan, tell_time
from tunestudy.launch.queue import remembered_works
from tunestudy.records.atomic import write_json
from tunestudy.study.estimates.timing import JobTime
from tunestudy.study.load import load_study
from tunestudy.study.plan import Plan, make_plan

STUDY = (
    TWO_STAGES
    + """\
variants:
  start: {stages: [base]}
  main: {stages: [base, adapt], priority: 1}
  more: {stages: [base, adapt], overrides: {adapt.adapter.lora_r: 4}}
resources: {slots: 2}
"""
)
BASE_S, ADAPT_S = 600.0, 1200.0


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def make(*overrides: str) -> Plan:
        path = tmp_path / "small.yaml"
        path.write_text(STUDY)
        return make_plan(load_study(path, overrides), tmp_path / "results")

    return make


def schedule_of(plan: Plan, *, unknown: str = "", only: Any = None):
    times, left = {}, {}
    for one in plan.jobs:
        seconds = None if unknown in one.job.variants else BASE_S if one.job.stage == "base" else ADAPT_S
        times[one.job.id] = JobTime(train_s=seconds, evidence=None, benchmark_s=0.0)
        left[one.job.id] = seconds
    return make_schedule(plan, times, left, only=only)


def told(plan: Plan, **options: Any) -> str:
    return "\n".join(budget_lines(schedule_of(plan, **options), plan))


def test_a_budget_that_is_kept(planned) -> None:
    assert told(planned("resources.wall_clock=1h")) == (
        "\nBudget of 1 h 00 min: kept, 10 min 00 s are left (50 min 00 s on 2 slots)"
    )
    assert told(planned()) == ""


def test_a_budget_that_is_not_kept_says_what_would_have_to_give(planned) -> None:
    lines = told(planned("resources.wall_clock=40m")).splitlines()
    assert lines[1] == "Budget of 40 min 00 s: NOT kept, 10 min 00 s too long (50 min 00 s on 2 slots)"
    shortest = "  no order of the jobs is shorter than 50 min 00 s; the longest chain takes 30 min 00 s: base → adapt ("
    assert lines[2].startswith(shortest)
    first, *ways = lines[3].split(", or ")
    assert first == "  it would fit on 4 slots"
    assert ways == ["without more (lowest priority first, then last in the file)", "with seed 1 alone"]


def test_a_chain_that_no_gpu_shortens(planned) -> None:
    lines = told(planned("resources.wall_clock=20m")).splitlines()
    assert "  no number of GPUs is enough for that chain" in lines
    assert any("it would fit without" in line or "its jobs themselves" in line for line in lines)


def test_gpus_are_counted_where_they_are_asked_for(planned) -> None:
    plan = planned("resources.wall_clock=40m", "resources.gpus=4", "resources.ranks=2", "resources.slots=auto")
    assert "it would fit on 8 GPUs" in told(plan)


def test_unknown_times_are_guessed_and_said_to_be(planned) -> None:
    plan = planned("resources.wall_clock=1h")
    schedule = schedule_of(plan, unknown="start")
    assert schedule.makespan_s is None and schedule.packing is not None
    assert "2 jobs of unknown time taken as the median of the others" in "\n".join(budget_lines(schedule, plan))
    nothing = make_schedule(
        plan,
        {one.job.id: JobTime(train_s=None, evidence=None, benchmark_s=None) for one in plan.jobs},
        dict.fromkeys((one.job.id for one in plan.jobs), None),
    )
    assert "cannot be judged, no job's time is known" in "\n".join(budget_lines(nothing, plan))
    assert schedule_lines(nothing, plan) == []


def test_the_picture(planned) -> None:
    plan = planned()
    lines = schedule_lines(schedule_of(plan), plan)
    assert max(map(len, lines)) <= 100
    rows = {line.split("|")[0].strip(): line.split("|")[1] for line in lines if "|" in line}
    assert set(rows) == {"cpu0", "cpu1"}
    assert all(row.startswith("Aaaa") and row.count("B") + row.count("C") == 2 for row in rows.values())
    assert "a base (main +2) · b adapt (main) · c adapt (more)" in lines[-1]


def test_a_part_of_the_study(planned) -> None:
    plan = planned("resources.wall_clock=20m")
    base = {one.job.id for one in plan.jobs if one.job.stage == "base"}
    assert "Budget of 20 min 00 s: kept" in told(plan, only=base)


def test_memory_comes_from_finished_seeds_or_estimates(planned, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("resources.share_gpus=auto", "resources.slots=auto")
    first = next(one.job for one in plan.jobs if one.job.stage == "base")
    plan.folder.job(first.id).root.mkdir(parents=True)
    write_json(plan.folder.job(first.id).result_json, {"fingerprint": first.fingerprint, "peak_memory_mb": 9400.0})
    adapted = [one.job.id for one in plan.jobs if one.job.stage == "adapt"]
    write_json(plan.folder.estimates, {adapted[0]: {"memory_mb": 30000}, adapted[1]: {"memory_mb": "much"}})
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(local, "gpus", lambda: [{"memory_bytes": 40 * 2**30}])
    schedule = schedule_of(plan)
    sizes = {work.id: work.memory_mb for work in schedule.works.values()}
    assert {sizes[one.job.id] for one in plan.jobs if one.job.stage == "base"} == {9400.0 + CONTEXT_MB}
    assert sizes[adapted[0]] == 30000 + CONTEXT_MB and sizes[adapted[1]] is None
    assert [slot.name for slot in schedule.slots] == ["gpu0", "gpu0#1", "gpu0#2"]


def test_what_was_planned_is_kept_from_before_the_start(planned, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("resources.wall_clock=1h")
    for one in plan.jobs:
        folder = plan.folder.job(one.job.id)
        if one.job.seed == 1:
            folder.root.mkdir(parents=True)
            seconds = BASE_S if one.job.stage == "base" else ADAPT_S
            write_json(folder.result_json, {"fingerprint": one.job.fingerprint, "duration_s": seconds})
    again = planned("resources.wall_clock=1h")
    loaded = load_study(plan.folder.root.parents[1] / "small.yaml", ("resources.wall_clock=1h",))
    schedule = tell_time(again, loaded, estimate=False, quiet=False)
    assert "Budget of 1 h 00 min: kept" in capsys.readouterr().out
    kept = json.loads(plan.folder.packing.read_text())
    assert set(kept["jobs"]) == set(schedule.works) == {one.job.id for one in plan.jobs if one.job.seed == 2}
    assert kept["until"] == pytest.approx(kept["t"] + 3600)
    began = next(one.job for one in again.jobs if one.job.seed == 2)
    write_json(plan.folder.job(began.id).progress_json, {"t": 1.0})
    tell_time(planned("resources.wall_clock=1h"), loaded, estimate=False, quiet=True)
    after = json.loads(plan.folder.packing.read_text())
    assert after["jobs"][began.id] == kept["jobs"][began.id], "it has begun: what was foreseen stays"
    assert after["until"] == kept["until"]


def test_json_has_it_all(planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned("resources.wall_clock=30m")
    first = plan.jobs[0].job
    plan.folder.job(first.id).root.mkdir(parents=True)
    write_json(plan.folder.job(first.id).result_json, {"fingerprint": first.fingerprint, "duration_s": 60.0})
    loaded = load_study(tmp_path / "small.yaml", ("resources.wall_clock=30m",))
    show_plan(loaded, tmp_path / "results", estimate=False, as_json=True)
    time = json.loads(capsys.readouterr().out)["time"]
    assert time["budget"]["wall_clock_s"] == 1800 and time["budget"]["slots"] == 2
    assert {job["known"] for job in time["packing"]["jobs"]} == {True, False}


def test_what_is_known_of_jobs_is_kept_for_allocations(planned) -> None:
    """A loop inside of SLURM reads no study file: what it packs by stands in the results folder, unknown times, too."""
    plan = planned()
    schedule = schedule_of(plan, unknown="more")
    remember_packing(plan, schedule, now=0.0)
    assert remembered_works(plan.folder, [one.job for one in plan.jobs]) == schedule.works
    assert {work.priority for work in schedule.works.values()} == {0, 1}
    plan.folder.packing.unlink()
    remember_packing(plan, replace(schedule, packing=None), now=0.0)
    assert remembered_works(plan.folder, [one.job for one in plan.jobs]) == schedule.works


@pytest.mark.parametrize(("budget", "words"), [("1h", ""), ("10m", "Budget of 10 min")])
def test_quiet_leaves_out_a_budget_that_is_kept_alone(planned, capsys, budget: str, words: str) -> None:
    plan = planned(f"resources.wall_clock={budget}")
    for one in plan.jobs:
        if one.job.seed == 1:
            folder = plan.folder.job(one.job.id)
            folder.root.mkdir(parents=True)
            seconds = BASE_S if one.job.stage == "base" else ADAPT_S
            write_json(folder.result_json, {"fingerprint": one.job.fingerprint, "duration_s": seconds})
    again = planned(f"resources.wall_clock={budget}")
    loaded = load_study(plan.folder.root.parents[1] / "small.yaml", (f"resources.wall_clock={budget}",))
    tell_time(again, loaded, estimate=False, quiet=True)
    told = capsys.readouterr()
    assert told.out == "" and ("NOT kept" in told.err) == bool(words) and words in told.err

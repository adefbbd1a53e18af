"""Times that are foreseen: from finished jobs first, then from timed steps, else none."""

import json
from typing import Any

import pytest

from tunestudy.records.atomic import write_json
from tunestudy.study.estimates.timing import expected_times, remember_estimates, seconds_left, speed_key
from tunestudy.study.plan import Plan

Folder = Any
HOST = "here"


def times_of(plan: Plan) -> dict[tuple[str, tuple[str, ...], int], Any]:
    times = expected_times(plan, ranks=1, host=HOST)
    return {(p.job.stage, p.job.variants, p.job.seed): times[p.job.id] for p in plan.jobs}


def finish(plan: Plan, stage: str, seed: int, duration: float, score: float | None = None) -> None:
    """Result (and score) of the first job of a stage and seed."""
    job = next(p.job for p in plan.jobs if (p.job.stage, p.job.seed) == (stage, seed))
    folder = plan.folder.job(job.id)
    folder.root.mkdir(parents=True)
    write_json(folder.result_json, {"fingerprint": job.fingerprint, "duration_s": duration})
    for name, evaluation in job.evaluations.items() if score else ():
        write_json(folder.eval_json(name), {"fingerprint": evaluation.fingerprint, "duration_s": score})


def probe(plan: Plan, stage: str, **facts: Any) -> None:
    job = next(p.job for p in plan.jobs if p.job.stage == stage)
    measured = {
        "setup_s": 10,
        "step_s": 0.5,
        "total_steps": 300,
        "evaluation_s": 2.0,
        "evaluations": 3,
        "start_s": 4.0,
        **facts,
    }
    write_json(plan.folder.probe(speed_key(plan, job, ranks=1, host=HOST)), measured)


def test_nothing_seen_nothing_said(folder: Folder) -> None:
    plan = folder.plan()
    assert all(time.seconds is None and time.evidence is None for time in times_of(plan).values())
    remember_estimates(plan, expected_times(plan, ranks=1, host=HOST), now=1.0)
    assert not plan.folder.estimates.exists()


def test_other_seeds_are_expected_to_take_the_mean_of_those_that_finished(folder: Folder) -> None:
    plan = folder.plan()
    finish(plan, "base", 1, 100.0, score=4.0)
    finish(plan, "base", 2, 120.0, score=6.0)
    time = next(time for (stage, _, seed), time in times_of(folder.plan()).items() if (stage, seed) == ("base", 3))
    assert (time.train_s, time.evidence, time.benchmark_s) == (110.0, "finished jobs", 5.0)
    assert time.seconds == 115.0
    assert all(time.train_s is None for (stage, *_), time in times_of(folder.plan()).items() if stage == "adapt")


def test_a_result_of_an_older_definition_is_no_evidence(folder: Folder, edited: Any) -> None:
    plan = folder.plan()
    finish(plan, "base", 1, 100.0)
    job = plan.jobs[0].job
    result = plan.folder.job(job.id).result_json
    write_json(result, {**json.loads(result.read_text()), "fingerprint": "f" * 64})
    assert all(time.train_s is None for time in times_of(folder.plan()).values())


def test_timed_steps_count_setup_steps_and_evaluations(folder: Folder) -> None:
    plan = folder.plan()
    probe(plan, "base")
    times = {key: time for key, time in times_of(plan).items() if key[0] == "base"}
    assert {time.train_s for time in times.values()} == {10 + 150 + 6}
    assert {time.seconds for time in times.values()} == {10 + 150 + 6 + 4}, "processes take time to start"
    assert {time.evidence for time in times.values()} == {"timed steps"}
    finish(plan, "base", 1, 100.0)
    assert {time.train_s for (stage, *_), time in times_of(folder.plan()).items() if stage == "base"} == {100.0}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("learning_rate: 5e-3", True),
        ("save_steps: 7", True),
        ("early_stopping_patience: 2", True),
        ("adapter: {lora_r: 4}", False),
        ("effective_batch_size: 64", False),
        ("bf16: true", False),
        ("activation_checkpointing: true", False),
        ("optim: sgd", False),
        ("max_steps: 301", False),
    ],
)
def test_what_names_a_probe(folder: Folder, edited: Any, change: str, same: bool) -> None:
    def key(text: str, host: str = HOST) -> str:
        plan = folder.plan(text.split("  full:")[0])
        return speed_key(plan, plan.jobs[0].job, ranks=1, host=host)

    changed = edited(("base: {data: upright, max_steps: 300}", f"base: {{data: upright, max_steps: 300, {change}}}"))
    changed = changed.replace("max_steps: 300, max_steps: 301", "max_steps: 301")
    assert (key(changed) == key(edited())) is same
    assert key(edited()) != key(edited(), host="there")


def test_strengths_of_gates_share_a_probe(folder: Folder, edited: Any) -> None:
    keys = set()
    for gates in ("sparse_lambda: 0.1", "sparse_lambda: 0.5", "target_sparsity: 0.5, threshold: official"):
        text = edited(("max_steps: 300}", f"max_steps: 300, adapter: {{type: sora, {gates}}}}}")).split("  full:")[0]
        plan = folder.plan(text)
        keys.add(speed_key(plan, plan.jobs[0].job, ranks=1, host=HOST))
    assert len(keys) == 1


def test_what_is_done_takes_nothing_more(folder: Folder) -> None:
    plan = folder.plan()
    finish(plan, "base", 1, 100.0, score=4.0)
    finish(plan, "base", 2, 100.0)
    plan = folder.plan()
    times = expected_times(plan, ranks=1, host=HOST)
    left = {p.job.seed: seconds_left(p, times[p.job.id]) for p in plan.jobs if p.job.stage == "base"}
    assert left == {1: 0.0, 2: 4.0, 3: 104.0}


def test_estimates_are_kept_only_from_before_the_start(folder: Folder) -> None:
    plan = folder.plan()
    probe(plan, "base")
    remember_estimates(plan, expected_times(plan, ranks=1, host=HOST), now=1.0)
    first = json.loads(plan.folder.estimates.read_text())
    assert {entry["train_s"] for entry in first.values()} == {166.0}
    finish(plan, "base", 1, 100.0)
    plan = folder.plan()
    remember_estimates(plan, expected_times(plan, ranks=1, host=HOST), now=2.0)
    kept = json.loads(plan.folder.estimates.read_text())
    by_seed = {p.job.seed: kept[p.job.id] for p in plan.jobs if p.job.stage == "base"}
    assert by_seed[1] == {"train_s": 166.0, "evidence": "timed steps", "t": 1.0}
    assert by_seed[2] == {"train_s": 100.0, "evidence": "finished jobs", "t": 2.0}

"""Whether a failed job is started again, and what is different then."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tunestudy.config.resources import Resources
from tunestudy.launch.ending import write_down_failure
from tunestudy.launch.executor import failure_told_by_others
from tunestudy.launch.outcome import Outcome
from tunestudy.launch.retry import CURES, Verdict, verdict_on
from tunestudy.launch.task import Task
from tunestudy.records.adjusted import read_adjusted, write_adjusted
from tunestudy.records.events import Journal

STAGE = {"data": ["d"], "learning_rate": 0.1}


def failed(kind: str, step: int | None = 1, phase: str = "train") -> Outcome:
    return Outcome(kind=kind, step=step, phase=phase, attempt=1)  # type: ignore[arg-type]


@pytest.fixture
def tell(study):
    """The verdict on `failures` of a job with these batch numbers."""

    def verdict(*failures: Outcome, ranks: int = 1, resources: dict[str, Any] | None = None, **stage: Any) -> Verdict:
        job, folder = study.jobs[1], study.folder("other")
        folder.root.mkdir(parents=True, exist_ok=True)
        job = job.model_validate({**job.model_dump(), "settings": {**STAGE, **stage}})
        return verdict_on(failures, job, folder, Resources(**(resources or {})), ranks=ranks)

    return verdict


@pytest.mark.parametrize(
    ("kind", "retries"),
    [
        ("user", 0),
        ("oom", 3),
        ("killed", 1),
        ("node_lost", 3),
        ("nan", 0),
        ("hang", 1),
        ("preempted", 100),
        ("disk", 1),
        ("error", 1),
    ],
)
def test_defaults(tell, kind, retries):
    steps = [failed(kind, step) for step in range(retries + 1)]
    assert all(tell(*steps[: n + 1]).again for n in range(retries))
    assert not tell(*steps).again
    assert kind in CURES


def test_kinds_are_counted_apart_and_capped_together(tell):
    mixed = [failed("killed", 1), failed("error", 2), failed("hang", 3)]
    assert tell(*mixed).again
    assert not tell(*mixed, resources={"max_retries": 2}).again
    assert "max_retries is 2" in tell(*mixed, resources={"max_retries": 2}).words
    assert not tell(*mixed, failed("hang", 4)).again
    assert tell(*mixed, failed("hang", 4), resources={"retries": {"hang": 2}}).again


KINDS = ("oom", "nan", "hang", "killed", "node_lost", "preempted", "disk", "error")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_step_twice_for_the_same_cause_is_a_loop_unless_the_cluster_was_it(tell, kind):
    many = {"retries": dict.fromkeys(KINDS, 9)}
    twice = tell(failed(kind), failed(kind), resources=many)
    assert twice.again is (kind in ("node_lost", "preempted"))
    assert twice.again or "same step before" in twice.words
    assert tell(failed(kind, 1), failed(kind, 2), resources=many).again
    assert tell(failed("error" if kind == "killed" else "killed"), failed(kind), resources=many).again


def test_the_same_place_twice_is_a_loop_where_there_are_no_steps(tell):
    many = {"retries": {"hang": 9, "node_lost": 9}}
    merging, benchmark = failed("hang", None, phase="merge 40%"), failed("hang", 400, phase="benchmark")
    assert not tell(merging, merging, resources=many).again
    assert not tell(benchmark, benchmark, resources=many).again
    assert tell(*[failed("node_lost", None)] * 2, resources=many).again


def test_pauses_double_and_have_an_end(tell):
    lost = [failed("node_lost", step) for step in range(9)]
    waits = [tell(*lost[: n + 1], resources={"retries": {"node_lost": 9, "wait_s": 100}}).wait_s for n in range(5)]
    assert waits == [100, 200, 400, 600, 600]
    assert tell(failed("killed")).wait_s == 0


@pytest.mark.parametrize(
    ("numbers", "ranks", "half"),
    [
        ({"per_device_train_batch_size": 8}, 1, 4),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1}, 1, 3),
        ({"per_device_train_batch_size": 5, "effective_batch_size": 10}, 2, 1),
        ({"per_device_train_batch_size": 3, "effective_batch_size": 12}, 1, 1),
        ({"per_device_train_batch_size": 9, "effective_batch_size": 18}, 2, 3),
    ],
)
def test_out_of_memory_halves_the_micro_batch_to_what_divides(tell, numbers, ranks, half):
    verdict = tell(failed("oom"), ranks=ranks, **numbers)
    assert verdict.again and verdict.adjusted.per_device_train_batch_size == half
    before = numbers["per_device_train_batch_size"]
    assert f"per_device_train_batch_size is {half} in place of {before}" in verdict.words


def test_out_of_memory_goes_on_at_the_same_step_down_to_one_and_later_runs_begin_there(tell, study):
    rows, found = {"per_device_train_batch_size": 8}, []
    for count in range(1, 4):
        verdict = tell(*[failed("oom")] * count, **rows)
        write_adjusted(study.folder("other"), verdict.adjusted)
        found.append(read_adjusted(study.folder("other")).per_device_train_batch_size)
    assert found == [4, 2, 1]
    last = tell(failed("oom"), **rows)
    assert not last.again and "one sample already" in last.words
    assert "activation_checkpointing" in CURES["oom"]


def test_evaluations_and_benchmarks_have_batches_of_their_own(tell, study):
    rows = {"per_device_train_batch_size": 8}
    evaluating = tell(failed("oom", phase="evaluate"), **rows).adjusted
    assert (evaluating.per_device_train_batch_size, evaluating.per_device_eval_batch_size) == (None, 4)
    scoring = tell(failed("oom", phase="benchmark"), **rows).adjusted
    assert (scoring.per_device_train_batch_size, scoring.benchmark_divisor) == (None, 2)
    write_adjusted(study.folder("other"), scoring)
    assert tell(failed("oom", phase="benchmark"), **rows).adjusted.benchmark_divisor == 4


def test_without_a_batch_to_blame_memory_is_like_any_other_failure(tell):
    rows = {"per_device_train_batch_size": 8}
    assert tell(failed("oom", None, phase="load"), **rows) == Verdict(again=True)
    assert "same step before" in tell(*[failed("oom", None, phase="load")] * 2, **rows).words


def test_an_unreadable_adjustment_counts_as_none(study):
    folder = study.folder("other")
    folder.root.mkdir(parents=True)
    folder.adjusted_json.write_text('{"per_device_tr')
    assert read_adjusted(folder).per_device_train_batch_size is None


def test_a_job_that_another_machine_took_over_before_it_began_has_not_failed(study):
    """The other launcher's journal tells of a new start without an attempt then."""
    job = study.jobs[1]
    study.dir.events.mkdir(parents=True)
    told = {"t": 1.0, "event": "job_retried", "job": job.id, "attempt": None}
    (study.dir.events / "other.jsonl").write_text(json.dumps(told) + "\n")
    launch = SimpleNamespace(study=study.dir, journal=SimpleNamespace(writer="here"))
    task = Task(job, study.folder("other"), seen_claim=1)
    assert failure_told_by_others(task, launch) is None
    end = Outcome(kind="user", message="stopped by `expect:`", step=3, by_expectation=True)
    with Journal(study.dir.events, "there") as journal:
        write_down_failure(task, 1, end, study.dir, journal)
    assert failure_told_by_others(task, launch) == end, "a band that was left makes no study wrong here either"

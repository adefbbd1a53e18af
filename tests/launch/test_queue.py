"""Who goes next: what is left, packed anew as jobs end."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tunestudy.launch.local import Slot
from tunestudy.launch.queue import Queue, unknown_works
from tunestudy.launch.task import Task
from tunestudy.study.packing.dispatch import Work

TWO = (Slot("gpu0", 1, ("0",), 1), Slot("gpu1", 1, ("1",), 1))


@pytest.fixture
def tasks(fresh_study):
    """`other`, `base` → `adapt` → `merge`, and others that nobody waits for: the plan names those first."""
    jobs = fresh_study("s").jobs
    base, other, adapt, merge = jobs
    more = [other.model_copy(update={"id": f"other-{place}", "stage": f"other{place}"}) for place in range(3)]
    return [Task(job, folder=None) for job in (other, *more, base, adapt, merge)]


def running(task: Task, slot: Slot, started: float) -> Task:
    task.attempt = SimpleNamespace(slot=slot, started=started)
    task.state = "running"
    return task


def first_two(queue: Queue, tasks: list[Task]) -> list[str]:
    ready = [task for task in tasks if task.state == "waiting" and not task.job.needs]
    return sorted(task.job.stage for task in queue.ranked(ready, tasks)[:2])


def test_without_times_the_longest_chain_goes_first_where_the_end_depends_on_it(tasks):
    """Three others and a chain of three on two slots: three rounds, not four."""
    tasks = tasks[1:]
    works = unknown_works(task.job for task in tasks)
    assert first_two(Queue(works, TWO), tasks) == ["base", "other0"]
    assert first_two(Queue(works, TWO[:1]), tasks) == ["other0", "other1"], "on one slot no order is shorter"


def test_known_times_decide(tasks):
    works = unknown_works(task.job for task in tasks)
    known = {name: replace(work, seconds=1.0, known=True) for name, work in works.items()}
    known["other-2"] = replace(known["other-2"], seconds=60.0)
    assert "other2" in first_two(Queue(known, TWO), tasks)


def test_a_failure_changes_the_order(tasks):
    tasks = tasks[1:]
    queue = Queue(unknown_works(task.job for task in tasks), TWO)
    assert "base" in first_two(queue, tasks)
    for task in tasks[4:]:
        task.state = "blocked"
    assert first_two(queue, tasks) == ["other0", "other1"], "no chain is left"


def test_times_seen_here_are_learnt(tasks, monkeypatch):
    """Of a stage that has ended once: its other seeds are expected to take as long."""
    settings = object()
    for place in (1, 3):
        tasks[place].job = SimpleNamespace(**{**dict(tasks[place].job), "settings": settings, "needs": ()})
    queue = Queue(unknown_works(task.job for task in tasks), TWO)
    running(tasks[1], TWO[0], started=100.0)
    monkeypatch.setattr("tunestudy.launch.queue.time.monotonic", lambda: 160.0)
    queue.ranked([tasks[0]], tasks)
    tasks[1].attempt, tasks[1].state = None, "done"
    works = {work.id: work for work in (queue._now(task) for task in tasks)}
    assert not works["other-2"].known
    queue.ranked([tasks[0]], tasks)
    assert queue._now(tasks[3]).seconds == 60.0 and queue._now(tasks[3]).known


def test_priority_is_before_all(tasks):
    works = unknown_works(task.job for task in tasks)
    works["other-1"] = replace(works["other-1"], priority=1)
    ready = [task for task in tasks if not task.job.needs]
    assert Queue(works, TWO).ranked(ready, tasks)[0].job.stage == "other1"


def test_memory_beside_others_is_looked_at(tasks):
    shared = [Slot(name, 1, ("0",), 1, memory_mb=100.0) for name in ("gpu0", "gpu0#1")]
    sizes = {"other-0": 40.0, "other-1": 60.0, "other-2": None}
    works = {task.job.id: Work(id=task.job.id, seconds=1.0, memory_mb=sizes.get(task.job.id, 50.0)) for task in tasks}
    queue, by_id = Queue(works, shared), {task.job.id: task for task in tasks}
    assert queue.fits(by_id["other-2"], shared[1], tasks), "alone on its GPU it always fits"
    running(by_id["other-0"], shared[0], 0.0)
    assert queue.fits(by_id["other-1"], shared[1], tasks)
    assert not queue.fits(by_id["other-2"], shared[1], tasks), "unknown: it may need all of it"
    running(by_id["other-1"], shared[1], 0.0)
    assert not queue.fits(tasks[4], shared[1], tasks), "both are full"


def test_ten_thousand_tasks_are_ordered_without_packing_each_time(fresh_study, monkeypatch):
    job = fresh_study("s").jobs[1]
    tasks = [Task(job.model_copy(update={"id": f"{place}"}), folder=None) for place in range(10_000)]
    queue = Queue(unknown_works(task.job for task in tasks), TWO)
    packed = []
    monkeypatch.setattr("tunestudy.launch.queue.pack", lambda *a, **k: packed.append(1) or SimpleNamespace(order=[]))
    for task in tasks[:400]:
        task.state = "done"
        queue.ranked(tasks[-1:], tasks)
    assert len(packed) == 3

"""Packing against brute force and against a hand-made schedule; idle slots of the real loop."""

import contextlib
import hashlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from best_packing import best_makespan
from operate_figure import Figure

from tunestudy.config.job import Job
from tunestudy.config.resources import Resources
from tunestudy.config.study import Study
from tunestudy.launch.carry_out import carry_out
from tunestudy.launch.local import find_slots
from tunestudy.launch.place import ThisMachine
from tunestudy.launch.prepare import prepare
from tunestudy.records.events import read_events
from tunestudy.records.layout import StudyDir
from tunestudy.study.packing.dispatch import Seat, Work
from tunestudy.study.packing.pack import pack

FAKE_WORKER = Path(__file__).parents[1] / "tests" / "launch" / "fake_worker.py"
_INSTANCES, _DRAWS, _HOUR = 200, 1000, 3600.0
_ROUNDING = 1e-9
_FEW = 9
"""Up to so many jobs the optimum itself is found; of more it is only asked whether one is below the limit."""
_MOST = 1.05


def figures() -> Iterator[Figure]:
    """All of this part, the quick ones first."""
    yield from against_brute_force()
    yield from against_the_hand()
    yield from speed()
    yield idle_slots()


def seats(count: int) -> list[Seat]:
    return [Seat(name=f"gpu{place}") for place in range(count)]


def against_brute_force() -> Iterator[Figure]:
    """Random studies of 3 to 12 jobs: single jobs, chains, and trees whose stages are shared."""
    chance = random.Random(20)
    exact, beyond = [], 0
    for number in range(_INSTANCES):
        works = _random_works(chance, chance.randint(3, 12), ("free", "chains", "tree")[number % 3])
        slots = chance.randint(1, 4)
        packing = pack(works, seats(slots))
        if packing.makespan <= packing.lower_bound_s * (1 + _ROUNDING):
            exact.append(1.0)  # nothing can be shorter
        elif len(works) <= _FEW:
            exact.append(packing.makespan / best_makespan(works, slots, known=packing.makespan))
        bar = packing.makespan / _MOST
        beyond += bar > packing.lower_bound_s and best_makespan(works, slots, known=bar) < bar
    note = "the optimum may let slots wait, we never do"
    name = f"of {_INSTANCES} studies of ≤ 12 jobs, more than {_MOST} × optimum"
    yield Figure(name=name, value=beyond, unit="", limit=0, note=note)
    name = f"makespan ÷ optimum, worst of {len(exact)} (≤ {_FEW} jobs, or tight)"
    yield Figure(name=name, value=max(exact), unit="", limit=_MOST)
    yield Figure(name="makespan ÷ optimum, mean of these", value=statistics.fmean(exact), unit="")


def _random_works(chance: random.Random, number: int, shape: str) -> list[Work]:
    works: list[Work] = []
    for place in range(number):
        needs: tuple[str, ...] = ()
        if shape == "chains" and place and chance.random() < 0.6:
            needs = (f"j{place - 1}",)
        elif shape == "tree" and place and chance.random() < 0.8:
            needs = (f"j{chance.randrange(place)}",)
        seconds = chance.choice((chance.uniform(1, 10), chance.uniform(10, 100)))
        works.append(Work(id=f"j{place}", seconds=seconds, needs=needs))
    return works


def against_the_hand() -> Iterator[Figure]:
    """Seed 002: experiment 1 then 5 on GPU 0, 2 on GPU 1, both stages of 3 on GPU 2, of 4 on GPU 3.

    Its own estimates are ranges: one to two hours of training each, one to two hours of evaluation in all.
    """
    chance = random.Random(2)
    ratios, ours, hand = [], [], []
    for _ in range(_DRAWS):
        train = [chance.uniform(1, 2) * _HOUR for _ in range(5)]
        scored = [chance.uniform(1, 2) * _HOUR / 5 for _ in range(5)]
        works = [_whole(name, train[name - 1] + scored[name - 1]) for name in (1, 2, 5)]
        for name in (3, 4):
            share = chance.uniform(0.3, 0.7)
            first = Work(id=f"exp{name} stage1", seconds=train[name - 1] * share)
            last = train[name - 1] * (1 - share) + scored[name - 1]
            works += [first, Work(id=f"exp{name} stage2", seconds=last, needs=(first.id,))]
        by_hand = max(train[0] + scored[0] + train[4] + scored[4], *(train[one] + scored[one] for one in (1, 2, 3)))
        packed = pack(works, seats(4)).makespan
        ratios.append(packed / by_hand)
        ours.append(packed / _HOUR)
        hand.append(by_hand / _HOUR)
    name = f"seed 002: ours ÷ its hand packing, worst of {_DRAWS} draws"
    yield Figure(name=name, value=max(ratios), unit="", limit=1.0 + _ROUNDING)
    yield Figure(name="seed 002: ours ÷ its hand packing, mean", value=statistics.fmean(ratios), unit="")
    note = f"by hand {max(hand):.2f} h; the budget is 6 h, evaluation included"
    yield Figure(name="seed 002: longest of the draws", value=max(ours), unit="h", limit=6.0, note=note)


def _whole(name: int, seconds: float) -> Work:
    return Work(id=f"exp{name}", seconds=seconds)


def speed() -> Iterator[Figure]:
    """A study of 10,000 jobs."""
    chance = random.Random(1)
    works = _random_works(chance, 10_000, "tree")
    for slots in (8, 64):
        began = time.process_time()
        pack(works, seats(slots))
        yield Figure(
            name=f"packing 10,000 jobs on {slots} slots", value=time.process_time() - began, unit="s cpu", limit=2.0
        )


def idle_slots() -> Figure:
    """The real loop with workers that sleep: seconds in which a slot was free while a job could start, per job."""
    base, others = _job("base", 0), []
    chains = [(_job(f"first{one}", one, base), one) for one in range(4)]
    others = [_job(f"second{one}", one, first) for first, one in chains]
    jobs = [base, *(first for first, _ in chains), *others, *(_job(f"alone{one}", one) for one in range(6))]
    with tempfile.TemporaryDirectory() as folder:
        study = StudyDir(Path(folder) / "s")
        resources = Resources(slots=3)
        _carry_out(study, jobs, resources)
        seconds = idle_seconds(study, jobs, len(find_slots(resources)))
    note = f"{len(jobs)} jobs on 3 slots; from result.json to the next start"
    return Figure(
        name="idle slot while jobs are ready, per job", value=seconds / len(jobs), unit="s", limit=2.0, note=note
    )


def _job(stage: str, seed: int, *parents: Job) -> Job:
    fingerprint = hashlib.sha256(f"{stage}/{seed}".encode()).hexdigest()
    return Job(
        id=f"{stage}-{fingerprint[:12]}",
        stage=stage,
        fingerprint=fingerprint,
        seed=seed,
        variants=("v",),
        parents=tuple(parent.id for parent in parents),
        model={"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}},  # type: ignore[arg-type]
        settings=None,
        evaluations={},
    )


def _carry_out(folder: StudyDir, jobs: list[Job], resources: Resources) -> None:
    model: Any = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
    study = Study(study="s", seeds=(1,), model=model, variants={"v": {"stages": {}}}, resources=resources)  # type: ignore[dict-item]
    prepare(study, b"study: s\n", jobs, {"jobs": []}, folder)
    chance = random.Random(4)
    sleeps = {job.stage: {"steps": 2, "step_s": chance.uniform(0.2, 0.8)} for job in jobs}
    (folder.root / "behaviour.json").write_text(json.dumps(sleeps))
    command = lambda job, _ranks: [sys.executable, str(FAKE_WORKER), str(job.root)]  # noqa: E731
    with contextlib.redirect_stdout(io.StringIO()):
        code = carry_out(study, jobs, folder, place=ThisMachine(find_slots(resources), command), quiet=True)
    assert code == 0, "the fake study failed"


def idle_seconds(study: StudyDir, jobs: list[Job], slots: int) -> float:
    """Integral over time of the number of free slots that a ready job could have had."""
    events = read_events(study.events)
    start = {event["job"]: event["t"] for event in events if event["event"] == "job_started"}
    end = {job.id: study.job(job.id).result_json.stat().st_mtime for job in jobs}
    begin = next(event["t"] for event in events if event["event"] == "run_started")
    ready = {job.id: max([begin, *(end[parent] for parent in job.parents)]) for job in jobs}
    moments = sorted({*start.values(), *end.values(), *ready.values()})
    total = 0.0
    for moment, after in pairwise(moments):
        busy = sum(start[job.id] <= moment < end[job.id] for job in jobs)
        waiting = sum(ready[job.id] <= moment < start[job.id] for job in jobs)
        total += min(max(0, slots - busy), waiting) * (after - moment)
    return total

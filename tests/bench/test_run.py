"""Answers are kept as they come: killed and run again, a benchmark ends the same, and no question is asked twice."""

import json
import os
import random
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from stops import StopAt
from tinyjob import make_job

from tunestudy.bench import parts as parts_module
from tunestudy.bench.advance import Advance
from tunestudy.bench.parts import Parts
from tunestudy.bench.run import answers, as_lines, run_benchmarks
from tunestudy.bench.tasks import Row, Scored
from tunestudy.config.benchmark import ExactMatch
from tunestudy.config.job import Job
from tunestudy.records.layout import JobDir
from tunestudy.records.stop import StopRequest
from tunestudy.train.world import World

ROWS = [Row(f"r{i:02}", (1,) * (i % 9 + 1), f"{i}", group=f"g{i % 10}" if i > 30 else "") for i in range(60)]
BENCHMARK = ExactMatch(dataset="d", batch_size=4)
KILLED = 9


def test_answers_survive_interruptions_and_changes_of_the_number_of_ranks(tmp_path):
    asked: Counter[str] = Counter()
    for ranks, chunks in ((2, 3), (3, 2), (1, 2)):
        assert run_ranks(tmp_path, asked, ranks, stop_after=chunks) == [None] * ranks
    kept = sum(len(file.read_text().splitlines()) for file in tmp_path.glob("*.part-*.jsonl"))
    assert 0 < kept == sum(asked.values()) < len(ROWS)
    told = run_ranks(tmp_path, asked, 2)
    assert told[0] == told[1] == [answer_to(row) for row in ROWS]
    assert asked == Counter(row.id for row in ROWS)


def test_a_stop_before_anything_is_asked_asks_nothing(tmp_path):
    asked: Counter[str] = Counter()
    assert run_ranks(tmp_path, asked, 2, stop_after=0) == [None, None]
    assert not asked


def test_ranks_that_hold_slices_ask_the_same_and_one_writes(tmp_path):
    asked: Counter[str] = Counter()
    told = run_ranks(tmp_path, asked, 2, sliced=True)
    assert told[0] == told[1] == [answer_to(row) for row in ROWS]
    assert set(asked.values()) == {2}
    assert [file.name for file in tmp_path.glob("*.part-*")] == ["b.part-0.jsonl"]


def answer_to(row):
    return Scored(row.id, f"said {row.id}", row.reference, True, group=row.group, categories={"k": "v"}, images=("s",))


def run_ranks(folder, asked, ranks, *, stop_after=None, sliced=False):
    """`answers` on so many ranks, which are threads; the task counts what it is asked."""
    lock, told = threading.Lock(), ["failed"] * ranks
    slots = SimpleNamespace(barrier=threading.Barrier(ranks, timeout=20), values=[None] * ranks)

    def ask(_scorer, rows, _benchmark):
        with lock:
            asked.update(row.id for row in rows)
        return [answer_to(row) for row in rows]

    def work(rank):
        stop = StopRequest() if stop_after is None else StopAt(stop_after + 1)
        world = Together(rank=rank, size=ranks)
        world.slots = slots
        told[rank] = answers(
            ROWS,
            BENCHMARK,
            SimpleNamespace(score=ask),
            None,
            Parts(folder / "b.predictions.jsonl", "f", rank),
            Advance(world),
            sliced=sliced,
            stop=stop,
        )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


class Together(World):
    """Ranks that are threads."""

    def gather_objects(self, value):
        self.slots.values[self.rank] = value
        self.slots.barrier.wait()
        gathered = list(self.slots.values)
        self.slots.barrier.wait()
        return gathered

    def any(self, wanted):
        return any(self.gather_objects(wanted))


def test_a_line_counts_only_for_the_row_and_the_definition_it_was_written_for(tmp_path):
    row = Row("r", (1, 2), "x")
    predictions = tmp_path / "b.predictions.jsonl"
    Parts(predictions, "f", 0).append([row], [answer_to(row)])
    assert Parts(predictions, "f", 3).read([row]) == {"r": answer_to(row)}
    assert Parts(predictions, "g", 0).read([row]) == {}
    for other in (Row("r", (1, 3), "x"), Row("r", (1, 2), "y"), Row("s", (1, 2), "x"), Row("r", (1, 2), "x", ("x",))):
        assert Parts(predictions, "f", 0).read([other]) == {}


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_line_is_asked_again_and_spoils_nothing(tmp_path, cut):
    first, second, third = (Row(name, (1,), "x") for name in "abc")
    parts = Parts(tmp_path / "b.predictions.jsonl", "f", 0)
    parts.append([first, second], [answer_to(first), answer_to(second)])
    [file] = parts.files()
    file.write_bytes(file.read_bytes()[:-cut])
    assert set(parts.read([first, second, third])) == {"a"} if cut > 1 else {"a", "b"}
    parts.append([third], [answer_to(third)])
    assert set(parts.read([first, second, third])) >= {"a", "c"}


def job_with(folder: JobDir) -> Job:
    """Only to be evaluated, in many small chunks."""
    job = json.loads(folder.job_json.read_text())
    benchmark = {"type": "exact_match", "dataset": "first", "batch_size": 3, "max_new_tokens": 4}
    job |= {"settings": None, "evaluations": {"said": {"benchmark": benchmark, "fingerprint": "said"}}}
    folder.job_json.write_text(json.dumps(job))
    return Job.model_validate(job)


def test_killed_and_run_again_is_uninterrupted(tmp_path, monkeypatch):
    """The process ends at once in the middle of a write, at a place drawn anew for every kill."""
    folders = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        folders.append(make_job(tmp_path / name))
    whole, killed = folders
    assert run_benchmarks(job_with(whole), whole, World(), StopRequest())
    draws, kills = random.Random(4), 0
    job = job_with(killed)
    while not killed.eval_json("said").is_file():
        lines, tail = draws.randint(0, 12), draws.randint(0, 60)
        if (child := os.fork()) == 0:
            die_after(monkeypatch, lines, tail)
            run_benchmarks(job, killed, World(), StopRequest())
            os._exit(0)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    assert kills > 2
    assert killed.predictions("said").read_bytes() == whole.predictions("said").read_bytes()
    scores = [json.loads(folder.eval_json("said").read_text()) for folder in folders]
    assert [{**score, "duration_s": 0} for score in scores] == [{**scores[0], "duration_s": 0}] * 2
    assert not list(killed.predictions("said").parent.glob("*.part-*"))


def die_after(monkeypatch, lines, tail):
    """End this process once so many lines are written, with the beginning of another behind them."""
    append, left = Parts.append, [lines]

    def dying(self, rows, scored):
        fits = scored[: left[0]]
        left[0] -= len(fits)
        append(self, rows, fits)
        if len(fits) < len(scored):
            append(self, rows, scored[len(fits) : len(fits) + 1])
            with open(self._own, "r+b") as file:
                whole = file.read()
                last = whole.rindex(b"\n", 0, len(whole) - 1) + 1 if whole.count(b"\n") > 1 else 0
                file.truncate(last + min(tail, len(whole) - last - 1))
            os._exit(KILLED)

    monkeypatch.setattr(parts_module.Parts, "append", dying)


def test_a_stop_between_chunks_keeps_what_is_answered(tmp_path):
    folder = make_job(tmp_path)
    job = job_with(folder)
    assert run_benchmarks(job, folder, World(), StopAt(4)) is False
    [part] = folder.predictions("said").parent.glob("said.part-0.jsonl")
    assert len(part.read_text().splitlines()) == 2 * 3
    assert run_benchmarks(job, folder, World(), StopRequest())
    assert len(folder.predictions("said").read_text().splitlines()) == 40
    assert not part.exists()


def test_what_no_judge_was_asked_about_is_asked_again(tmp_path):
    parts, row = Parts(tmp_path / "b[1].predictions.jsonl", "f", 0), Row("r", (1,), "a")
    other = Row("s", (1,), "a")
    unjudged = Scored("r", "x", "a", False, problem="unjudged: nobody there")
    parts.append([row, other], [unjudged, Scored("s", "x", "a", True)])
    assert set(parts.read([row, other])) == {"s"}
    assert len(parts.files()) == 1


def test_half_a_character_does_not_lose_an_answer():
    [line] = as_lines([Scored("r", "x \ud83d", "a", False)]).splitlines()
    assert json.loads(line)["prediction"] == "x ?"

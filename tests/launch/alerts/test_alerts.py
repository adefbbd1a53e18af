"""Alerts: each kind, once per cause, and none where nothing is wrong."""

import json
import math
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunestudy.config.alerts import AlertSettings, Band
from tunestudy.config.job import Job
from tunestudy.config.study import Study
from tunestudy.launch.alerts import feed as feeding
from tunestudy.launch.alerts import watchman as watching
from tunestudy.launch.alerts.feed import AlertFeed, alert_words
from tunestudy.launch.alerts.notify import Notifier
from tunestudy.launch.alerts.rules import Pace, high_loss, little_disk, outside_bands, slow_rank
from tunestudy.launch.alerts.watchman import Watchman
from tunestudy.launch.ending import outcome_of
from tunestudy.launch.local import Slot
from tunestudy.launch.outcome import Outcome
from tunestudy.launch.task import Attempt, Task
from tunestudy.records.atomic import write_json
from tunestudy.records.events import Journal, read_events
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.records.tables import TableLog

MODEL = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
EVALUATION = {"benchmark": {"type": "exact_match", "dataset": "d"}, "fingerprint": "f" * 64}
JOB = Job(
    id="adapt-aaaaaaaaaaaa", stage="adapt", fingerprint="a" * 64, seed=1, variants=("v",), model=MODEL, settings=None,
    evaluations={"b": EVALUATION},
)  # fmt: skip
GEMMA = 262_208


def bands(**expected: Any) -> dict[str, tuple[Band, ...]]:
    return {name: (Band.model_validate(band),) for name, band in expected.items()}


def test_a_first_loss_far_above_guessing() -> None:
    told = high_loss(JOB, 1, 22.4, GEMMA, 2.0)
    assert told is not None
    assert told.message.startswith(
        "train_loss is 22.40 at step 1; guessing blindly among 262,208 tokens gives 12.48: targets or labels"
    )
    assert high_loss(JOB, 1, math.log(GEMMA) + 1.9, GEMMA, 2.0) is None
    assert high_loss(JOB, 1, 22.4, None, 2.0) is None
    assert high_loss(JOB, 1, 22.4, GEMMA, None) is None


@pytest.mark.parametrize(
    ("band", "values", "wrong"),
    [
        ({"below": 2.5, "at_step": 100}, {90: 9.0, 110: 3.0, 120: 9.0}, [110]),
        ({"below": 2.5, "at_step": 100}, {100: 2.4, 110: 9.0}, []),
        ({"below": 10}, {10: 9.0, 20: 11.0}, [20]),
        ({"above": 1, "from_step": 20, "until_step": 30}, {10: 0, 20: 0, 30: 2, 40: 0}, [20]),
        ({"below": 10, "stages": ["other"]}, {10: 99.0}, []),
        ({"below": 10, "variants": ["v", "w"]}, {10: 99.0}, [10]),
        ({"below": 10}, {10: math.nan, 20: math.inf}, [10, 20]),
    ],
)
def test_bands(band: dict[str, Any], values: dict[int, float], wrong: list[int]) -> None:
    found, before = [], -1
    for step, value in values.items():
        found += list(outside_bands(JOB, bands(grad_norm=band), {"grad_norm": value}, step, before))
        before = step
    assert [alert.step for alert in found] == wrong


def test_a_stall_is_told_by_the_jobs_own_pace() -> None:
    pace = Pace()
    for step in range(6):
        pace.see(step, step * 2.0)
    stalled: Callable[[float], Any] = lambda now: pace.stalled(JOB, now, factor=20.0, least_s=30.0)  # noqa: E731
    assert stalled(10.0 + 39.0) is None
    assert stalled(10.0 + 41.0).message == "no step since step 5 for 41 s; steps took 2 s"
    pace.rest(50.0)  # an evaluation explains it
    assert stalled(51.0) is None
    assert Pace().stalled(JOB, 1e9, factor=2.0, least_s=0.0) is None


def test_the_slow_rank_is_named_with_its_host() -> None:
    hosts = {0: "a", 1: "a", 2: "b"}
    told = slow_rank(JOB, {0: [1.0] * 5, 1: [1.1] * 5, 2: [1.9] * 5}, hosts, 1.5)
    assert told is not None
    assert told.message.startswith("rank 2 on b needs 1.9 s for its own part of a step, the others 1.05 s")
    assert slow_rank(JOB, {0: [1.0] * 5, 1: [1.1] * 5, 2: [1.4] * 5}, hosts, 1.5) is None
    assert slow_rank(JOB, {0: [1.0] * 5, 1: [1.0, 1.0, 9.0, 9.0, 9.0]}, hosts, 1.5) is not None
    assert slow_rank(JOB, {0: [1.0] * 5, 1: [9.0, 9.0]}, hosts, 1.5) is None, "too few rows"


def test_disk() -> None:
    told = little_disk(4 * 10**9, 10**12, 5 * 10**9, 0.05)
    assert told is not None
    assert "the next checkpoint needs about 5 GB, 4 GB are free" in told.message
    told = little_disk(40 * 10**9, 10**12, 5 * 10**9, 0.05)
    assert told is not None
    assert "40 GB are free, 4.0% of the file system" in told.message
    assert little_disk(60 * 10**9, 10**12, 5 * 10**9, 0.05) is None


class Lab:
    """One running job and the watchman over it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.folder = StudyDir(root / "study")
        self.job = self.folder.job(JOB.id)
        self.job.logs.mkdir(parents=True)
        self.task = Task(JOB, self.job, state="running")
        self.said: list[str] = []
        model = {"study": "s", "seeds": (1,), "model": MODEL, "variants": {"v": {"stages": {}}}}
        self.study = Study.model_validate({**model, **settings})
        self.runs = 0
        self.tell()
        self.restart()

    def restart(self) -> None:
        self.runs += 1
        journal = Journal(self.folder.events, f"writer-{self.runs}")
        self.watchman = Watchman(self.study, self.folder, journal, self.said.append)

    def tell(self, **facts: Any) -> None:
        write_json(self.job.progress_json, {"phase": "train", "attempt": 1, "vocabulary": 100, **facts})

    def rows(self, *losses: float, keep: int = -1) -> None:
        table = TableLog(self.job.loss_log, ("step", "train_loss", "grad_norm"), keep_through_step=keep)
        for step, loss in enumerate(losses, max(0, keep) + 1):
            table.append({"step": step, "train_loss": loss, "grad_norm": 1.0})
        table.close()

    def look(self) -> list[str]:
        """What is new, in words."""
        before = len(self.said)
        self.watchman._next = 0.0
        self.watchman.look([self.task])
        return self.said[before:]


Usage = namedtuple("Usage", "free total")


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching.psutil, "disk_usage", lambda _: Usage(90 * 10**9, 100 * 10**9))


def test_each_cause_is_told_once_however_often_it_is_run(tmp_path: Path) -> None:
    lab = Lab(tmp_path, expect={"train_loss": {"below": 5.0}})
    assert lab.look() == []
    lab.rows(4.0, 9.0, 9.5)
    assert lab.look() == [
        "alert (high_loss): adapt-aaaaaaaaaaaa: train_loss is 9.00 at step 2; guessing blindly among 100 tokens gives "
        "4.61: targets or labels may be wrong, or the model may come apart",
        "alert (expect): adapt-aaaaaaaaaaaa: train_loss is 9 at step 2, expected below 5",
    ]
    assert lab.look() == []
    lab.rows(9.0, 9.0, keep=1)  # resumed
    lab.restart()
    assert lab.look() == []
    events = [event for event in read_events(lab.folder.events) if event["event"] == "alert"]
    assert [(event["kind"], event["step"]) for event in events] == [("high_loss", 2), ("expect", 2)]
    feed = AlertFeed(lab.folder.events)
    assert len([alert_words(alert) for alert in feed.new()]) == 2
    assert feed.new() == []


def test_a_journal_of_any_length_is_read_to_its_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_AT_ONCE_BYTES", 200)
    with Journal(tmp_path, "writer") as journal:
        for step in range(9):
            journal.write("alert", job="j", kind="nan", message="loss is nan", step=step)
    feed = AlertFeed(tmp_path)
    assert [alert["step"] for alert in feed.new()] == list(range(9))
    assert feed.new() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=5, max_size=60))
def test_falling_losses_raise_nothing(tmp_path_factory: pytest.TempPathFactory, noise: list[float]) -> None:
    lab = Lab(tmp_path_factory.mktemp("quiet"), expect={"train_loss": {"at_step": 5, "below": 5.7}})
    losses = [math.log(100) * 0.95**step + one for step, one in enumerate(noise)]
    for step in (len(losses) // 2, len(losses)):
        lab.rows(*losses[:step])
        lab.tell(step=step)
        assert lab.look() == []


def test_phases_explain_a_pause_and_a_stall_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now)
    lab = Lab(tmp_path)
    for step in range(5):
        lab.tell(step=step)
        assert lab.look() == []
        now += 2.0
    now += 200.0
    lab.tell(step=4, phase="evaluate")
    assert lab.look() == []
    lab.tell(step=4)
    now += 59.0
    assert lab.look() == []
    now += 5.0
    (told,) = lab.look()
    assert "alert (stalled): adapt-aaaaaaaaaaaa: no step since step 4 for 64 s; steps took 2 s" in told
    now += 50.0
    assert lab.look() == []


def test_slow_rank_from_the_ranks_own_tables(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for rank, seconds in ((0, 0.1), (1, 0.3)):
        lab.job.pace_log(rank).write_text(
            "step,own_s,host\n" + "".join(f"{step},{seconds},h{rank}\n" for step in range(5))
        )
    (told,) = lab.look()
    assert "rank 1 on h1 needs 0.3 s" in told
    assert lab.look() == []


def test_a_rank_whose_table_shows_up_later_is_looked_at_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    for rank, seconds in ((0, 0.1), (1, 0.3)):
        assert lab.look() == []
        lab.job.pace_log(rank).write_text("step,own_s,host\n" + f"1,{seconds},h{rank}\n" * 5)
    (told,) = lab.look()
    assert "rank 1 on h1 needs 0.3 s" in told


def test_a_checkpoint_that_is_deleted_while_it_is_looked_at_is_no_matter(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (lab.job.root / "checkpoint-1").mkdir()
    (lab.job.root / "checkpoint-2").symlink_to("gone")  # listed, and not there any more
    assert lab.look() == []


def test_nan_score_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(tmp_path, expect={"*.b": {"above": 0.5}})
    lab.look()
    lab.task.failures.append(Outcome(kind="nan", message="loss is nan at step 7", step=7))
    assert lab.look() == ["alert (nan): adapt-aaaaaaaaaaaa: loss is nan at step 7"]
    monkeypatch.setattr(watching.psutil, "disk_usage", lambda _: Usage(10**9, 100 * 10**9))
    lab.watchman._next_disk = 0.0
    (told,) = lab.look()
    assert told.startswith("alert (disk): 1 GB are free, 1.0% of the file system")
    write_json(lab.job.eval_json("b"), {"primary": "accuracy", "metrics": {"accuracy": 0.25}})
    lab.task.state = "done"
    assert lab.look() == ["alert (expect): adapt-aaaaaaaaaaaa: *.b is 0.25, expected above 0.5"]


def test_the_users_command_gets_json_and_is_never_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    settings = AlertSettings(command=f"cat > {tmp_path}/told.json")
    notifier = Notifier(settings, {}, said.append)
    notifier.send({"kind": "disk", "message": "full"})
    notifier.close()
    assert json.loads((tmp_path / "told.json").read_text()) == {"kind": "disk", "message": "full"}
    notifier = Notifier(AlertSettings(command="sleep 60", command_timeout_s=0.2), {}, said.append)
    notifier.send({})
    notifier.send({})
    notifier.close()
    assert said == ["alerts.command took longer than 0.2 s and was killed"]
    notifier = Notifier(AlertSettings(command="no-such-command-here"), {}, said.append)
    notifier.send({})
    notifier.close()
    assert said[1:] == ["alerts.command ended with exit code 127"]


def test_a_thousand_jobs_cost_little(tmp_path: Path) -> None:
    """Of a thousand tasks only those that run are looked at."""
    lab = Lab(tmp_path)
    waiting = [Task(JOB.model_copy(update={"id": f"adapt-{number:012d}"}), lab.job) for number in range(1000)]
    lab.watchman.look([*waiting, lab.task])
    assert list(lab.watchman._jobs) == [JOB.id]


class Stoppable:
    """A job's processes that note what they are asked."""

    pid, waits = 1, ""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def poll(self) -> int | None:
        return 0

    def ask_to_stop(self) -> None:
        self.asked.append("stop")

    def show_stacks(self) -> None:
        self.asked.append("stacks")

    def kill(self) -> None:
        self.asked.append("kill")


def test_a_band_with_stop_ends_the_job_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(watching.time, "monotonic", lambda: now)
    lab = Lab(tmp_path, expect={"train_loss": {"below": 4.0, "stop": True}}, resources={"stop_grace_s": 30.0})
    running = Stoppable()
    with Lease.acquire(lab.job.claim) as claim, Lease.acquire(tmp_path / "slot") as slot:
        attempt = Attempt(running, claim, Slot("cpu0", 1, (), 1), slot, 0.0, {}, 0)
        lab.task.attempt = attempt
        lab.rows(3.0, 4.5)
        lab.look()
        lab.look()
        assert running.asked == ["stop"]
        now += 31.0
        lab.look()
        assert running.asked == ["stop", "kill"]
        lab.tell(phase="interrupted", step=2)
        outcome = outcome_of(lab.task, attempt, stopping=False)
    assert (outcome.kind, outcome.by_expectation) == ("user", True)
    assert outcome.message.startswith("stopped by `expect:` as train_loss is 4.5 at step 2, expected below 4")

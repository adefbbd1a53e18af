"""Trackers: told from files, each step once, whatever was killed; and what hangs or fails touches nobody."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.config.study import Study
from tunestudy.config.trackers import Tracker, TrackerSettings
from tunestudy.launch.trackers import start
from tunestudy.launch.trackers.about import About, about
from tunestudy.launch.trackers.kinds import open_run
from tunestudy.launch.trackers.sink import Sink
from tunestudy.launch.trackers.start import Sinks
from tunestudy.launch.trackers.steps import JobSteps, Values
from tunestudy.preflight.trackers import tracker_problems
from tunestudy.records.atomic import write_json
from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir, StudyDir
from tunestudy.records.tables import TableLog, read_table

sys.path.insert(0, str(Path(__file__).parents[2] / "lab"))
import wandbfile

LOSS = ("epoch", "step", "train_loss", "learning_rate", "grad_norm")
FAR = 10**9


def make_job(**changes: Any) -> Job:
    settings = TrainStage.model_validate({"data": "d", "learning_rate": 1e-3, "report_to": "all"})
    facts = {"id": "adapt-aaaaaaaaaaaa", "stage": "adapt", "fingerprint": "a" * 64, "seed": 3, "variants": ("v", "w")}
    model = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}}
    return Job(**{**facts, "model": model, "settings": settings, **changes})


def begin(root: Path, job: Job) -> JobDir:
    folder = StudyDir(root / "study").job(job.id)
    folder.root.mkdir(parents=True)
    write_json(folder.job_json, job.model_dump(mode="json"))
    write_json(folder.progress_json, {"started_at": 1.5})
    return folder


def write_rows(folder: JobDir, steps: range, *, keep: int = FAR) -> None:
    """Rows of training at each step and of evaluation at every third, as a run that was cut back to `keep` writes."""
    loss, evaluation = (
        TableLog(folder.loss_log, LOSS, keep_through_step=keep),
        TableLog(folder.eval_log, ("epoch", "step", "eval_loss", "loss/a"), keep_through_step=keep),
    )
    for step in steps:
        if step % 3 == 0:
            evaluation.append({"epoch": step / 10, "step": step, "eval_loss": 5 / step, "loss/a": 4 / step})
        loss.append({"epoch": step / 10, "step": step, "train_loss": 3 / step, "learning_rate": 1e-3 / step})
    loss.close(), evaluation.close()


def finish(folder: JobDir) -> None:
    write_json(folder.result_json, {"fingerprint": "a" * 64, "steps": 9, "trainable_params": 7})


class Kept:
    """A tracker that remembers, or fails from some step on."""

    def __init__(self, fails_at: int = FAR) -> None:
        self.rows: list[tuple[int, Values]] = []
        self.closed: list[Mapping[str, Any]] = []
        self.opened: list[str] = []
        self.fails_at = fails_at

    def __call__(self, tracker: Tracker, told: About) -> "Kept":
        self.opened.append(told.run_id)
        return self

    def log(self, step: int, values: Values) -> None:
        if step >= self.fails_at:
            raise ConnectionError("the server is down")
        self.rows.append((step, values))

    def close(self, step: int, summary: Mapping[str, Any]) -> None:
        self.closed.append(summary)


def sink_for(folder: JobDir, kept: Kept, said: list[str] | None = None) -> Sink:
    told = [] if said is None else said
    settings = TrackerSettings()
    return Sink("wandb", folder.study, settings, {folder.root.name: folder}, lambda _, words: told.append(words), kept)


def test_killed_and_resumed_goes_on_in_the_same_run_without_doubled_steps(tmp_path: Path) -> None:
    folder, kept = begin(tmp_path, make_job()), Kept()
    sink_for(folder, kept).look(last=True)
    assert kept.opened == []  # nothing to tell yet
    write_rows(folder, range(1, 8))
    sink_for(folder, kept).look(last=True)  # killed after step 7
    write_rows(folder, range(5, 10), keep=4)  # resumed from a checkpoint of step 4
    finish(folder)
    sink_for(folder, kept).look(last=False)
    assert [step for step, _ in kept.rows] == list(range(1, 10))
    assert kept.rows[5][1] == {
        "train/epoch": 0.6, "train/train_loss": 0.5, "train/learning_rate": 1e-3 / 6,
        "eval/epoch": 0.6, "eval/eval_loss": 5 / 6, "eval/loss/a": 4 / 6,
    }  # fmt: skip
    assert len(set(kept.opened)) == 1
    assert kept.closed[-1] == {"result/steps": 9, "result/trainable_params": 7}
    sink_for(folder, kept).look(last=True)
    assert len(kept.opened) == 2, "it is told to its end"


def test_rows_of_a_step_are_told_together(tmp_path: Path) -> None:
    folder = begin(tmp_path, make_job())
    write_rows(folder, range(1, 4))
    steps = JobSteps(folder, -1)
    assert [step for step, _ in steps.ready(ended=False)] == [1, 2], "the rest of step 3 may be on its way"
    with open(folder.sparsity_log, "w") as file:
        file.write("epoch,step,overall\n0.3,3,0.25\n0.4,4,0.5\n")
    assert steps.ready(ended=False)[0][1]["sparsity/overall"] == 0.25
    assert steps.ready(ended=True) == [], "step 4 has no training row: it was killed inside, and will be repeated"


def test_the_last_step_is_told_also_where_no_token_was_learnt_in_it(tmp_path: Path) -> None:
    folder = begin(tmp_path, make_job())
    write_rows(folder, range(1, 3))
    with open(folder.loss_log, "a") as file:
        file.write("0.3,3,,0.001,\n")
    assert [step for step, _ in JobSteps(folder, -1).ready(ended=True)] == [1, 2, 3]


def test_a_tracker_that_fails_is_told_of_once_and_gets_the_rest_later(tmp_path: Path) -> None:
    folder, kept, said = begin(tmp_path, make_job()), Kept(fails_at=4), []
    write_rows(folder, range(1, 8))
    sink = sink_for(folder, kept, said)
    sink.look(last=False)
    sink.look(last=False)  # not at once
    assert len(said) == 1
    assert said[0].startswith("wandb failed (ConnectionError: the server is down); jobs go on")
    kept.fails_at = FAR
    finish(folder)
    sink.look(last=True)
    assert [step for step, _ in kept.rows] == list(range(1, 8))


def test_two_launchers_do_not_tell_the_same_job(tmp_path: Path) -> None:
    folder, first, second = begin(tmp_path, make_job()), Kept(), Kept()
    write_rows(folder, range(1, 8))
    mine = sink_for(folder, first)
    mine.look(last=False)
    sink_for(folder, second).look(last=True)
    assert first.rows and not second.rows


def described(folder: JobDir, **settings: Any) -> About:
    return about(make_job(), folder, "study", TrackerSettings.model_validate(settings), "")


def test_what_a_run_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "a" * 20
    folder = begin(tmp_path, make_job())
    found = described(folder, notes=f"mine {secret}", tags=["x"], run_name="{stage}@{seed}")
    assert (found.project, found.group, found.name) == ("study", "v", "adapt@3")
    assert found.tags == ("v", "w", "adapt", "seed_3", "x")
    assert found.notes == "mine [hidden]\nresults: study/jobs/adapt-aaaaaaaaaaaa"
    assert found.config["fingerprint"] == "a" * 64
    assert found.config["settings"]["learning_rate"] == 1e-3
    assert found.name != described(folder).name == "v/seed_3/adapt"
    write_json(folder.progress_json, {"started_at": 2.5})
    assert described(folder).run_id != found.run_id, "deleted and made anew: another run"


def feed(tracker: Tracker, folder: JobDir) -> None:
    """Told in two lives of the process, as after a kill."""
    for steps in (JobSteps(folder, -1).ready(ended=True)[:5], JobSteps(folder, 5).ready(ended=True)):
        run = open_run(tracker, described(folder, project="p"))
        for step, values in steps:
            run.log(step, values)
        run.close(steps[-1][0], {"benchmarks/b/accuracy": 0.75})


def expected(folder: JobDir) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row["train_loss"])) for row in read_table(folder.loss_log)]


def feed_apart(tracker: Tracker, folder: JobDir, **env: str) -> None:
    """In a process of its own, as always: the packages read their variables when they are imported."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_trackers as t; from pathlib import Path;"
        "t.feed(sys.argv[2], t.JobDir(Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), tracker, str(folder.root)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path) -> None:
    folder = begin(tmp_path, make_job())
    write_rows(folder, range(1, 10))
    feed_apart("wandb", folder, WANDB_MODE="offline", WANDB_DIR="")
    files = wandbfile.files_in(folder.root)
    assert all(wandbfile.is_ended(file) for file in files)
    runs = [wandbfile.run_of(file) for file in files]
    assert {(run.run_id, run.display_name, run.run_group, run.project) for run in runs} == {
        (described(folder).run_id, "v/seed_3/adapt", "v", "p")
    }
    assert set(runs[0].tags) == {"v", "w", "adapt", "seed_3"}
    rows = [row for file in files for row in wandbfile.history(file)]
    assert [(row["_step"], row["train/train_loss"]) for row in rows] == expected(folder)
    assert wandbfile.summary(files[-1])["benchmarks/b/accuracy"] == 0.75


@pytest.mark.slow
def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = begin(tmp_path, make_job())
    write_rows(folder, range(1, 10))
    feed("tensorboard", folder)
    read = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
    read.Reload()
    found = [(event.step, event.value) for event in read.Scalars("train/train_loss")]
    assert found == [(step, pytest.approx(value)) for step, value in expected(folder)]
    assert read.Scalars("benchmarks/b/accuracy")[-1].value == 0.75


@pytest.mark.slow
def test_trackio(tmp_path: Path) -> None:
    folder = begin(tmp_path, make_job())
    write_rows(folder, range(1, 10))
    feed_apart("trackio", folder, TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "p.db") as base:
        rows = base.execute("select step, metrics, run_name from metrics order by step").fetchall()
    told = [(step, json.loads(text)) for step, text, _ in rows]
    assert [(step, row["train/train_loss"]) for step, row in told if "train/train_loss" in row] == expected(folder)
    assert len({name for _, _, name in rows}) == 1


WRITTEN_S = {"wandb": 0.0, "tensorboard": 0.0, "trackio": 4.0}
"""How long a tracker holds back what it was told. W&B's does so offline until 32 kB are there or its run ends."""
LIVES = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_trackers as t
folder, last = t.JobDir(t.Path(sys.argv[3])), sys.argv[4] == "last"
sink = t.Sink(sys.argv[2], folder.study, t.TrackerSettings(project="p"), {folder.root.name: folder}, print)
sink.look(last=last)
if not last:
    print("told", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def told_by(tracker: str, folder: JobDir) -> list[int]:
    """The steps that the tracker's files hold of a job."""
    if tracker == "wandb":
        files = wandbfile.files_in(folder.root)
        return [row["_step"] for file in files for row in wandbfile.history(file) if "train/train_loss" in row]
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        read = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
        read.Reload()
        return [event.step for event in read.Scalars("train/train_loss")] if read.Tags()["scalars"] else []
    base = folder.study.root.parent / "trackio" / "p.db"
    if not base.exists():
        return []
    with sqlite3.connect(base) as opened:
        rows = opened.execute("select step, metrics from metrics order by step").fetchall()
    return [step for step, text in rows if "train/train_loss" in json.loads(text)]


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "trackio"])
def test_killed_for_real_and_resumed_into_the_same_run(tmp_path: Path, tracker: Tracker) -> None:
    """kill -9 of the process that feeds a tracker, and of the job; both go on, and no step is told twice."""
    folder = begin(tmp_path, make_job())
    env = {"WANDB_MODE": "offline", "WANDB_DIR": "", "TRACKIO_DIR": str(tmp_path / "trackio")}
    command = [sys.executable, "-c", LIVES, str(Path(__file__).parent), tracker, str(folder.root)]
    write_rows(folder, range(1, 8))
    first = subprocess.Popen([*command, "first"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | env)
    assert first.stdout is not None
    while b"told" not in first.stdout.readline():
        assert first.poll() is None
    time.sleep(WRITTEN_S[tracker])
    first.communicate(b"x")
    assert first.returncode == -signal.SIGKILL
    before = [] if tracker == "wandb" else [1, 2, 3, 4, 5, 6]  # the rest of 7 may be coming
    assert told_by(tracker, folder) == before
    write_rows(folder, range(5, 10), keep=4)  # resumed from a checkpoint of step 4
    finish(folder)
    subprocess.run([*command, "last"], env={**os.environ, **env}, check=True)
    assert told_by(tracker, folder) == [*before, 7, 8, 9], "lost rather than doubled"
    if tracker == "wandb":
        first_life, second = wandbfile.files_in(folder.root)  # of the first nothing but its name may have been kept
        assert {wandbfile.run_of(second).run_id} == {described(folder).run_id} == {first_life.stem.partition("-")[2]}


STUDY = {
    "study": "study",
    "seeds": (1,),
    "model": {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "ab"}},
    "variants": {"v": {"stages": {}}},
}


@pytest.mark.slow
def test_a_tracker_that_hangs_is_left_after_the_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(settings=TrainStage.model_validate({"data": "d", "learning_rate": 1, "report_to": "wandb"}))
    folder = begin(tmp_path, job)
    write_rows(folder, range(1, 4))
    finish(folder)
    (tmp_path / "hanging.py").write_text(
        "import sys, time\n"
        "from tunestudy.launch.trackers.sink import main\n"
        "main(sys.argv[1], sys.argv[2], lambda tracker, about: time.sleep(600))\n"
    )
    study = Study.model_validate({**STUDY, "env": {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}})
    sinks = Sinks(study, [job], folder.study, patience_s=3.0, module="hanging")
    assert sinks.close() == ["wandb did not take everything within 3 s; `tunestudy sync` sends the rest"]
    assert sinks.processes["wandb"].poll() is not None


def test_leaving_early_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(settings=TrainStage.model_validate({"data": "d", "learning_rate": 1, "report_to": "wandb"}))
    (tmp_path / "asleep.py").write_text("import time\ntime.sleep(600)\n")
    study = Study.model_validate({**STUDY, "env": {"PYTHONPATH": str(tmp_path)}})
    sinks = Sinks(study, [job], StudyDir(tmp_path / "s"), patience_s=math.inf, module="asleep")
    monkeypatch.setattr(start.StopRequest, "on_signals", lambda *_: True)
    assert sinks.close() == [
        "wandb did not take everything before the signal to leave; `tunestudy sync` sends the rest"
    ]


@pytest.mark.slow
def test_a_tracker_that_fails_is_an_alert(tmp_path: Path) -> None:
    job = make_job(settings=TrainStage.model_validate({"data": "d", "learning_rate": 1, "report_to": "wandb"}))
    folder = begin(tmp_path, job)
    write_rows(folder, range(1, 4))
    study = Study.model_validate({**STUDY, "env": {"WANDB_MODE": "online", "WANDB_API_KEY": "short"}})
    left = Sinks(study, [job], folder.study).close()
    assert left and left[0].startswith("wandb did not take everything, see ")
    alerts = [event for event in read_events(folder.study.events) if event["event"] == "alert"]
    assert len(alerts) == 1
    assert alerts[0]["job"] == job.id
    assert "wandb failed" in alerts[0]["message"]


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("no_key")
def test_preflight_asks_for_a_key_before_an_hour_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [make_job()]
    (found,) = tracker_problems(jobs, {})
    assert str(found).startswith("stages.adapt.report_to: wandb has no key on this machine; `wandb login`")
    assert "WANDB_MODE=offline" in found.message
    assert not list(tracker_problems(jobs, {"WANDB_MODE": "offline"}))
    (found,) = tracker_problems(jobs, {"WANDB_MODE": "ofline"})
    assert "is 'ofline'; W&B knows online, offline, disabled" in found.message
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert not list(tracker_problems(jobs, {}))


@pytest.mark.usefixtures("no_key")
def test_preflight_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = [str(error) for error in tracker_problems([make_job()], {})]
    assert len(found) == 3
    assert all("is not installed; pip install 'tunestudy[trackers]'" in words for words in found)

"""run, run --detach, watch, stop, status and logs on one study file, with fake jobs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tunestudy.config.errors import Exit, StudyError
from tunestudy.launch import logs
from tunestudy.launch.run import run_study
from tunestudy.launch.status import print_status, status
from tunestudy.launch.stop import stop_study
from tunestudy.launch.watch import watch
from tunestudy.records.host import process_start
from tunestudy.records.launchers import present
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import Lease
from tunestudy.report import build
from tunestudy.study.load import LoadedStudy, load_study

pytestmark = pytest.mark.alone

RUN = Path(__file__).with_name("fake_run.py")
STUDY = """\
study: tiny
seeds: [1]
model: {architecture: qwen3, tokenizer: {type: characters, alphabet: "0123456789abcdefg\\n="}}
datasets: {digits: {type: digits, held_out: 0.1}}
defaults: {learning_rate: 1.0e-3, max_steps: 2, effective_batch_size: 2}
stages: {base: {data: digits}, adapt: {data: digits}}
variants: {short: {stages: [base]}, long: {stages: [base, adapt]}}
resources: {slots: 1, max_retries: 0, stop_grace_s: 20}
env: {SOME_SETTING: passed on}
"""


@pytest.fixture
def folder(tmp_path: Path) -> StudyDir:
    (tmp_path / "study.yaml").write_text(STUDY)
    return StudyDir(tmp_path / "results" / "tiny")


@pytest.fixture
def loaded(folder: StudyDir, tmp_path: Path) -> LoadedStudy:
    return load_study(tmp_path / "study.yaml")


@pytest.fixture
def run(tmp_path: Path, folder: StudyDir):
    """Start `run` as a process of its own, with jobs behaving as told."""
    started = []

    def start(*arguments: str, **by_stage: dict) -> subprocess.Popen[str]:
        folder.root.mkdir(parents=True, exist_ok=True)
        (folder.root / "behaviour.json").write_text(json.dumps(by_stage))
        command = [sys.executable, str(RUN), str(tmp_path / "study.yaml"), str(tmp_path / "results"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield start
    stop_study(folder.root)
    for process in started:
        process.communicate(timeout=30)


@pytest.mark.slow
def test_detached_run_survives_hang_up_is_watched_and_stopped(loaded, folder, run, until, capsys):
    told = run("--detach", base={"steps": 2000, "step_s": 0.02}).communicate(timeout=60)[0]
    pid = int(re.search(r"process (\d+)", told)[1])
    assert "tunestudy watch" in told and "tunestudy stop" in told
    until(lambda: list(folder.jobs.glob("base-*/state.json")), "the first step")
    os.kill(pid, signal.SIGHUP)

    now = status(loaded, folder.root.parent)
    base = next(job for job in now["jobs"] if job["stage"] == "base")
    assert base["status"] == "running" and base["progress"]["total_steps"] == 2000 and base["attempts"] == 1
    assert now["launchers"][0]["pid"] == pid and now["totals"]["duration_s"] > 0
    print_status(now)

    capsys.readouterr()
    assert stop_study(folder.root) == Exit.DONE
    assert process_start(pid) is None
    assert "stopped" in capsys.readouterr().out
    assert "run again to continue" in (folder.run_log).read_text()
    assert watch(loaded, folder.root.parent) == Exit.INTERRUPTED
    steps = [int(line) for line in next(folder.jobs.glob("base-*/steps.txt")).read_text().split()]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_watch_follows_to_the_end(loaded, folder, run, until, capsys):
    process = run(base={"steps": 20, "step_s": 0.05})
    until(lambda: list(folder.jobs.glob("base-*/state.json")), "the first step")
    assert watch(loaded, folder.root.parent) == Exit.DONE
    told = capsys.readouterr().out
    assert "base-" in told and ": running" in told and "2 done" in told
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "report: " in output, output
    assert (folder.report / "index.html").exists()
    environment = json.loads(next(next(folder.jobs.glob("base-*/starts")).iterdir()).read_text())
    assert environment["SOME_SETTING"] == "passed on"


@pytest.mark.slow
def test_stop_reaches_jobs_whose_launcher_was_killed(folder, run, until, capsys):
    process = run(base={"steps": 2000, "step_s": 0.02})
    until(lambda: list(folder.jobs.glob("base-*/state.json")), "the first step")
    process.kill()
    process.wait()
    assert stop_study(folder.root) == Exit.DONE
    assert "stopped" in capsys.readouterr().out
    progress = json.loads(next(folder.jobs.glob("base-*/progress.json")).read_text())
    assert progress["phase"] == "interrupted" and process_start(progress["pid"]) is None


@pytest.mark.slow
def test_a_run_that_is_done_is_done_though_another_process_goes_on_writing_the_report(
    loaded, folder, monkeypatch, capsys
):
    monkeypatch.setattr(build, "_UNTOLD_S", 0.0)
    monkeypatch.setattr(build, "_WAIT_S", 0.0)
    folder.root.mkdir(parents=True)
    (folder.root / "behaviour.json").write_text("{}")
    command = lambda job, _ranks: [sys.executable, str(RUN.with_name("fake_worker.py")), str(job.root)]  # noqa: E731
    with Lease.acquire(folder.leases / "report"):
        assert run_study(loaded, folder.root.parent, command=command, quiet=True) == Exit.DONE
    assert "is writing the report; when that is done, `tunestudy report` writes it anew" in capsys.readouterr().err


def test_stop_and_logs_where_nothing_is(tmp_path, capsys):
    assert stop_study(tmp_path / "nothing") == Exit.DONE
    assert "nothing of nothing is running" in capsys.readouterr().out
    with pytest.raises(StudyError, match="none yet"):
        logs.show(tmp_path / "nothing", None, follow=False)


def test_stop_names_launchers_on_other_machines(folder, capsys):
    with present(folder):
        file = next(folder.launchers.glob("*/*.json"))
        file.write_text(json.dumps({**json.loads(file.read_text()), "machine": "another", "host": "far-away"}))
        assert stop_study(folder.root) == Exit.PREFLIGHT_REFUSED
        assert f"process {os.getpid()} on far-away" in capsys.readouterr().out
    assert not list(folder.launchers.iterdir())


def test_disk_that_fills_up_during_a_run_is_told_plainly(tmp_path, loaded, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunestudy.records.events.Journal.write", full)
    with pytest.raises(StudyError, match=r"No space left on device, .* free; running jobs go on"):
        run_study(loaded, tmp_path / "results")


@pytest.mark.slow
def test_logs_follow_until_the_job_ends_and_hide_tokens(folder, run, until, capsys):
    token = "hf_" + "c" * 30
    process = run(base={"steps": 15, "step_s": 0.05})
    until(lambda: list(folder.jobs.glob("base-*/state.json")), "the first step")
    log = next(folder.jobs.glob("base-*")) / "logs" / "rank-0.log"
    with open(log, "a") as file:
        file.write(f"a line with {token}\nhalf a li")
    assert logs.show(folder.root, "base", follow=True) == Exit.DONE
    told = capsys.readouterr().out
    assert "a line with [hidden]" in told and "half a li" not in told
    assert process.wait(60) == 0
    assert token not in log.read_text()


def test_refused_study_writes_and_starts_nothing(tmp_path, loaded):
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(StudyError, match="is a file") as caught:
        run_study(loaded, tmp_path / "results")
    assert caught.value.exit_code == Exit.PREFLIGHT_REFUSED
    assert (tmp_path / "results").read_text() == "in the way"

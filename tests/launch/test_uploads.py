"""The uploader beside a run: a real process against a hub on loopback; a run that ends in spite of a hub that hangs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault
from published import checkpoint, make_published

from tunestudy.config.job import Job
from tunestudy.launch.uploads import uploading
from tunestudy.records.atomic import read_object
from tunestudy.records.layout import JobDir
from tunestudy.records.pushes import enqueue, read_pushed, waiting
from tunestudy.records.stop import StopRequest

TOKEN = "hf_" + "c3D4" * 6


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.writers[TOKEN] = "me"
    hub.start()
    for name, value in {**hub.environment(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}.items():
        monkeypatch.setenv(name, value)
    yield hub
    hub.stop()


def job_of(folder: JobDir) -> Job:
    return Job.model_validate_json(folder.job_json.read_text(encoding="utf-8"))


def beside(folder: JobDir, wait_s: float) -> uploading:  # type: ignore[valid-type]
    return uploading([job_of(folder)], folder.study, env={}, wait_s=wait_s, stop=StopRequest(), quiet=True)


def end_uploader(folder: JobDir) -> None:
    """End the process that this test's run has left behind."""
    pid = read_object(folder.study.push_state).get("pid")
    if isinstance(pid, int):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_what_jobs_leave_is_on_the_hub_when_the_run_ends(server: FakeHub, tmp_path: Path) -> None:
    folder = make_published(tmp_path, result=False)
    with beside(folder, wait_s=60):
        enqueue(folder, checkpoint(folder, 5), keep_older=False)
        deadline = time.monotonic() + 60
        while "checkpoint-5" not in read_pushed(folder) and time.monotonic() < deadline:
            time.sleep(0.1)  # while the "job" runs
        assert read_pushed(folder)["checkpoint-5"]["repo"] == "me/study-v-seed1-adapt"
    assert not waiting(folder)
    assert TOKEN not in folder.study.push_log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_hub_that_never_answers_keeps_no_run_and_nothing_is_lost(
    server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_published(tmp_path, result=False)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with monkeypatch.context() as here:
            here.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            with beside(folder, wait_s=1):
                enqueue(folder, checkpoint(folder, 5), keep_older=False)
                deadline = time.monotonic() + 60
                while not read_object(folder.study.push_state).get("doing") and time.monotonic() < deadline:
                    time.sleep(0.05)
        end_uploader(folder)
    assert "1 to push to the hub: " in capsys.readouterr().out
    with beside(folder, wait_s=60):
        pass  # another run, on a day when the hub answers
    assert "checkpoint-5" in read_pushed(folder)


@pytest.mark.slow
def test_an_uploader_that_was_killed_is_followed_by_one_that_goes_on(server: FakeHub, tmp_path: Path) -> None:
    folder = make_published(tmp_path, result=False)
    enqueue(folder, checkpoint(folder, 5), keep_older=False)
    server.faults.append(Fault("/commit/main", wait_s=30))
    with beside(folder, wait_s=0):
        deadline = time.monotonic() + 60
        while not any("/commit/" in seen for seen in server.seen) and time.monotonic() < deadline:
            time.sleep(0.05)
        end_uploader(folder)
    assert "checkpoint-5" not in read_pushed(folder)
    with beside(folder, wait_s=60):
        pass
    assert "checkpoint-5" in read_pushed(folder)


def test_nothing_is_started_where_nothing_is_pushed(tmp_path: Path) -> None:
    folder = make_published(tmp_path)
    job = job_of(folder)
    assert job.training is not None
    quiet = job.model_copy(update={"settings": job.training.model_copy(update={"push_to_hub": False})})
    with uploading([quiet], folder.study, env={}, wait_s=9, stop=StopRequest(), quiet=True):
        assert not folder.study.push_log.exists()


@pytest.mark.slow
def test_pushing_never_imports_torch() -> None:
    uses = "import sys, tunestudy.launch.push, huggingface_hub as hub; hub.HfApi, hub.ModelCardData"
    code = f"{uses}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

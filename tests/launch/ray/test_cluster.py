"""A real Ray cluster of two hosts, one of which is lost in the middle of a job."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from digit_reader import MODEL
from hosts import LabHosts, lab_hosts

from tunestudy.records.events import read_events
from tunestudy.records.layout import JobDir
from tunestudy.records.lease import Lease

pytest.importorskip("ray")

STUDY = (
    """\
study: rayed
seeds: [1, 2]
"""
    + MODEL
    + """\
datasets: {digits: {type: digits, trim: true, limit: 200}}
defaults: {data: digits, learning_rate: 1e-3, effective_batch_size: 8, max_steps: 80, max_length: 80,
           full_save_steps: 10, adapter: {lora_r: 4}}
stages: {adapt: }
variants: {lora: {stages: [adapt]}}
"""
)
_LOST_AFTER = '{"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_timeout_ms": 1000}'
"""Ray counts five checks without an answer; by default they are three seconds apart, and wait for ten."""
_RAY = str(Path(sys.executable).with_name("ray"))


def start_ray(lab: LabHosts) -> str:
    """A head on h1 and h2 beside it, with one CPU each; the head's address."""
    address = lab.address(1)
    common = ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats"]
    head = ["--head", "--port=6379", "--include-dashboard=false", f"--system-config={_LOST_AFTER}"]
    words = [[*head, f"--node-ip-address={address}", f"--temp-dir={lab.folder / 'ray'}"]]
    words += [[f"--address={address}:6379", f"--node-ip-address={lab.address(2)}"]]
    hosts = [
        subprocess.Popen(lab.command(host, [_RAY, "start", *common, *own]), stdout=subprocess.DEVNULL)
        for host, own in enumerate(words, start=1)
    ]
    assert [host.wait() for host in hosts] == [0, 0]
    return f"{address}:6379"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[LabHosts]:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whatever a cluster of this user's may have left at home
    with tempfile.TemporaryDirectory(prefix="ray") as folder, lab_hosts(Path(folder) / "n", 2) as hosts:
        yield hosts  # Ray's sockets need a short path, which pytest's own folders have not


def running_on(folder: Path, host: str, process: "subprocess.Popen[str]") -> JobDir:
    """The job that trains on `host`, once it has a full checkpoint."""
    while process.poll() is None:
        for root in folder.glob("rayed/jobs/adapt-*"):
            holder = Lease.holder(JobDir(root).lease)
            if holder is not None and holder.host == host and any(root.glob("checkpoint-*/MANIFEST.json")):
                return JobDir(root)
        time.sleep(0.1)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
@pytest.mark.lab
def test_a_job_goes_on_elsewhere_when_its_machine_is_lost(lab: LabHosts, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    tunestudy = [sys.executable, "-m", "tunestudy.cli"]
    here = [*tunestudy, "run", "study.yaml", "--results", "undisturbed", "resources.slots=1"]
    undisturbed = subprocess.Popen(here, cwd=tmp_path, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    address = start_ray(lab)
    assert undisturbed.wait() == 0
    there = ["run", "study.yaml", "resources.executor=ray", f"resources.ray.address={address}"]
    process = subprocess.Popen(
        lab.command(1, [*tunestudy, *there], tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    job = running_on(tmp_path / "results", "h2", process)
    lab.cut_off(2)
    lab.power_off(2)
    long_ago = time.time() - 1000
    os.utime(max(job.lease.glob("[0-9]*.json")), (long_ago, long_ago))  # a rank counts as alive for 100 s
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    failed = [event for event in read_events(tmp_path / "results/rayed/events") if event["event"] == "job_failed"]
    assert [
        (event["job"], event["exit_code"], "host h2 failed: the connection" in event["message"]) for event in failed
    ] == [(job.root.name, 255, True)], output
    assert json.loads(job.result_json.read_text())["resumed_from"]
    for one in tmp_path.glob("results/rayed/jobs/*/model/adapter_model.safetensors"):
        other = tmp_path / "undisturbed" / one.relative_to(tmp_path / "results")
        assert one.read_bytes() == other.read_bytes()
